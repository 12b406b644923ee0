"""The methods and dataparsers as users type them: configs and nothing else, one module per family."""

from common_ns.nerfstudio_seam.safe_configs import read_configs_safely

# nerfstudio loads this with its list of methods, before a command reads a config.
read_configs_safely()
