"""The suite's dataparsers.

They stand apart from the methods: the host loads dataparsers while its datamanager module is still being imported, so
that this module may import neither the trainer nor a datamanager.
"""

from nerfstudio.plugins.registry_dataparser import DataParserSpecification

from mipnerf_ns.dataparser import MultiscaleBlenderDataParserConfig

multiscale_blender_data = DataParserSpecification(
    config=MultiscaleBlenderDataParserConfig(),
    description="Blender scenes at 1, 1/2, 1/4 and 1/8 resolution, as ns-multiscale-blender writes them.",
)
