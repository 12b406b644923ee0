"""Tables of odd and bad inputs: each works, with the right value, or ends in one line that names the culprit."""
