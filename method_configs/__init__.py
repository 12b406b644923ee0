"""The methods and dataparsers as users type them: configs and nothing else, one module per family."""
