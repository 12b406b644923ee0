"""The suite's dataparsers.

They stand apart from the methods: nerfstudio loads dataparsers while its datamanager module is still being imported, so
that this module may import neither the trainer nor a datamanager.
"""

from nerfstudio.plugins.registry_dataparser import DataParserSpecification

from depthnerf_ns.dataparser import RgbdDataParserConfig
from hashnffb_sdf_ns.dataparser import IdrDataParserConfig
from miner_ns.dataparser import MinerImageDataParserConfig, MinerOccupancyDataParserConfig
from mipnerf_ns.dataparser import MultiscaleBlenderDataParserConfig

multiscale_blender_data = DataParserSpecification(
    config=MultiscaleBlenderDataParserConfig(),
    description="Blender scenes at 1, 1/2, 1/4 and 1/8 resolution, as ns-multiscale-blender writes them.",
)

miner_image_data = DataParserSpecification(
    config=MinerImageDataParserConfig(),
    description="An image of any size: PNG, JPEG, TIFF (also 16-bit and float), EXR or NumPy.",
)

miner_occupancy_data = DataParserSpecification(
    config=MinerOccupancyDataParserConfig(),
    description="The inside of a mesh, or a volume of occupancy or density.",
)

rgbd_data = DataParserSpecification(
    config=RgbdDataParserConfig(),
    description="RGB-D captures with stated depth units: transforms.json with depth, ScanNet, Matterport3D.",
)

idr_data = DataParserSpecification(
    config=IdrDataParserConfig(),
    description="Objects in the layout of IDR and NeuS: images, masks where there are any, cameras_sphere.npz.",
)
