"""The real-time preview of nerfstudio's viewer: stand-ins of a model that the browser itself draws while it moves."""
