"""Batches: right pixels, right rays, right footprints, and the same for the same step."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.data.dataparsers.blender_dataparser import BlenderDataParserConfig
from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig
from PIL import Image

from common_ns.data.drawing import pixel_footprint
from common_ns.errors import InputError
from common_ns.nerfstudio_seam import distributed
from common_ns.nerfstudio_seam.datamanager import FieldDataManagerConfig, seed_step
from common_ns.nerfstudio_seam.versions import set_training
from tests.conftest import write_tiny_blender


def manager(data: Path, **options):
    parser = options.pop("dataparser", BlenderDataParserConfig())
    torch.manual_seed(options.pop("seed", 42))
    config = FieldDataManagerConfig(data=data, dataparser=parser, train_num_rays_per_batch=64, **options)
    return config.setup(device="cpu", test_mode="test")


def edit_json(file: Path, edit) -> None:
    content = json.loads(file.read_text())
    edit(content)
    file.write_text(json.dumps(content))


def test_batch_colors_are_the_images_pixels_over_white(tiny_blender):
    datamanager = manager(tiny_blender)
    rays, batch = datamanager.next_train(0)
    assert rays.origins.shape == (64, 3)
    for (camera, row, column), color in zip(batch["indices"].tolist(), batch["image"]):
        pixel = np.asarray(Image.open(tiny_blender / "train" / f"r_{camera}.png"))[row, column] / 255.0
        expected = pixel[:3] * pixel[3] + (1 - pixel[3])
        assert np.allclose(color.numpy(), expected, atol=1e-6)


def test_rays_are_those_of_nerfstudios_cameras(tiny_blender):
    datamanager = manager(tiny_blender)
    rays, batch = datamanager.next_train(3)
    camera, row, column = batch["indices"][5].tolist()
    image_rays = datamanager.train_dataset.cameras.generate_rays(camera_indices=camera, keep_shape=True)
    assert torch.allclose(rays.directions[5], image_rays.directions[row, column], atol=1e-6)
    assert torch.allclose(rays.pixel_area[5], image_rays.pixel_area[row, column], atol=1e-9)


def test_a_step_draws_the_same_batch_in_every_run(tiny_blender):
    first, second = manager(tiny_blender), manager(tiny_blender)
    for step in range(3):
        first.next_train(step)
    torch.rand(17)  # whatever else is drawn between steps does not matter
    _, expected = first.next_train(7)
    _, found = second.next_train(7)
    assert torch.equal(expected["indices"], found["indices"])
    assert not torch.equal(second.next_train(8)[1]["indices"], found["indices"])
    assert not torch.equal(manager(tiny_blender, seed=43).next_train(7)[1]["indices"], found["indices"])


def test_pixels_on_disk_are_the_same(tiny_blender):
    _, expected = manager(tiny_blender).next_train(7)
    for _ in range(2):  # the second finds the first one's file
        _, found = manager(tiny_blender, pixels_on_disk=True).next_train(7)
        assert all(torch.equal(found[name], value) for name, value in expected.items())
    assert len(list((tiny_blender / ".fieldsuite-pixels").glob("*.pixels"))) == 1


def test_pixels_on_disk_are_those_of_the_images_as_they_are_now(tiny_blender, tmp_path):
    """Whatever of images and options changes what is decoded, the file found is never another's."""
    for options in ({}, {"camera_res_scale_factor": 0.5}):
        on_disk = manager(tiny_blender, pixels_on_disk=True, pixels_folder=tmp_path / "kept", **options)
        _, found = on_disk.next_train(7)
        assert torch.equal(found["image"], manager(tiny_blender, **options).next_train(7)[1]["image"])
    assert len(list((tmp_path / "kept").glob("*.pixels"))) == 2
    image = tiny_blender / "train" / "r_0.png"
    Image.fromarray(255 - np.asarray(Image.open(image))).save(image)
    _, found = manager(tiny_blender, pixels_on_disk=True, pixels_folder=tmp_path / "kept").next_train(7)
    assert torch.equal(found["image"], manager(tiny_blender).next_train(7)[1]["image"])
    assert len(list((tmp_path / "kept").glob("*.pixels"))) == 2


def test_training_pixels_are_decoded_when_they_are_needed(tiny_blender):
    """Evaluation of a large capture need not decode its training images."""
    evaluating = manager(tiny_blender)
    assert "store" not in vars(evaluating.train_pixel_sampler)
    evaluating.next_train(0)
    assert len(vars(evaluating.train_pixel_sampler)["store"]) == 4 * 16 * 16


def test_exporters_get_new_rays_though_they_always_ask_for_step_0(tiny_blender):
    datamanager = manager(tiny_blender)
    set_training(datamanager, False)
    first = datamanager.next_train(0)[1]["indices"]
    assert not torch.equal(first, datamanager.next_train(0)[1]["indices"])
    datamanager.train_pixel_sampler.num_rays_per_batch = 10
    assert len(datamanager.next_train(0)[1]["indices"]) == 10


def test_seeding_reaches_torch_and_python():
    import random

    seed_step(1, 5)
    drawn = torch.rand(1).item(), random.random()
    seed_step(1, 6)
    assert (torch.rand(1).item(), random.random()) != drawn
    seed_step(1, 5)
    assert (torch.rand(1).item(), random.random()) == drawn


def test_footprint_is_the_squared_scale_with_mean_1_over_all_pixels():
    scales = torch.tensor([[1], [2], [4], [8]])
    cameras = Cameras(
        camera_to_worlds=torch.eye(4)[None, :3].repeat(4, 1, 1),
        fx=80.0 / scales,
        fy=80.0 / scales,
        cx=5.0,
        cy=5.0,
        width=16 // scales,
        height=24 // scales,
    )
    footprint = pixel_footprint(cameras)
    assert (footprint / footprint[0]).flatten().tolist() == pytest.approx([1, 4, 16, 64])
    assert float((footprint * cameras.width * cameras.height).sum() / (16 * 24 + 8 * 12 + 4 * 6 + 2 * 3)) == (
        pytest.approx(1.0)
    )


def be_device(monkeypatch, rank: int, world_size: int) -> None:
    """Let this process take itself for one of several devices whose rank 0 was seeded with 42."""
    monkeypatch.setattr(distributed, "rank", lambda: rank)
    monkeypatch.setattr(distributed, "world_size", lambda: world_size)
    monkeypatch.setattr(distributed, "gather", lambda value: [42] * world_size)


def test_devices_share_the_batch_of_one_device(tiny_blender, monkeypatch):
    rays, whole = manager(tiny_blender).next_train(5)
    parts = []
    for rank in range(3):
        be_device(monkeypatch, rank, 3)
        device = manager(tiny_blender, seed=42 + rank)
        parts.append(device.next_train(5))
        assert device.get_train_rays_per_batch() == len(parts[-1][0])
    assert [len(part) for part, _ in parts] == [21, 21, 22]
    assert torch.equal(torch.cat([part.directions for part, _ in parts]), rays.directions)
    for name, value in whole.items():
        assert torch.equal(torch.cat([batch[name] for _, batch in parts]), value), name


def test_host_batches_are_divided_and_drawn_apart(tiny_blender, monkeypatch):
    drawn = []
    for rank in range(2):
        be_device(monkeypatch, rank, 2)
        drawn.append(manager(tiny_blender, patch_size=4).next_train(5)[1]["indices"])
    assert len(drawn[0]) == len(drawn[1]) == 32
    assert not torch.equal(*drawn)


def test_host_batches_are_used_when_an_option_asks_for_them(tiny_blender):
    datamanager = manager(tiny_blender, patch_size=4)
    _, batch = datamanager.next_train(0)
    indices = batch["indices"].reshape(-1, 4, 4, 3)
    assert (indices[:, :, 1:, 2] - indices[:, :, :-1, 2] == 1).all()


def test_evaluation_batches(tiny_blender):
    datamanager = manager(tiny_blender)
    _, batch = datamanager.next_eval(0)
    camera, row, column = batch["indices"][0].tolist()
    pixel = np.asarray(Image.open(tiny_blender / "test" / f"r_{camera}.png"))[row, column] / 255.0
    assert np.allclose(batch["image"][0].numpy(), pixel[:3] * pixel[3] + 1 - pixel[3], atol=1e-6)


def test_cameras_are_as_nerfstudios_commands_need_them(tiny_blender):
    cameras = manager(tiny_blender).train_dataset.cameras
    assert cameras.metadata == {}
    assert cameras.fx.dtype == cameras.fy.dtype == torch.float32


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda d: (d / "train" / "r_1.png").unlink(), r"r_1\.png: the image does not exist"),
        (lambda d: (d / "train" / "r_1.png").write_bytes(b"x"), r"r_1\.png: the image cannot be read"),
        (lambda d: (d / "transforms_train.json").write_text('{"frames": ['), r"transforms_train\.json: not valid JSON"),
        (
            lambda d: edit_json(d / "transforms_train.json", lambda c: c.pop("camera_angle_x")),
            r"the focal length of train/r_0\.png is missing",
        ),
        (lambda d: edit_json(d / "transforms_test.json", lambda c: c["frames"].clear()), "list of frames is empty"),
        (
            lambda d: edit_json(
                d / "transforms_train.json",
                lambda c: c["frames"][2]["transform_matrix"][0].__setitem__(3, float("nan")),
            ),
            r"the pose of train/r_2\.png holds nan",
        ),
        (
            lambda d: edit_json(
                d / "transforms_train.json", lambda c: c["frames"][0]["transform_matrix"][0].__setitem__(0, 5.0)
            ),
            "not rigid",
        ),
        (lambda d: Image.new("RGB", (16, 16)).save(d / "train" / "r_3.png"), r"r_3\.png: the image lacks an alpha"),
    ],
)
def test_bad_input_gives_one_line(tiny_blender, damage, message):
    damage(tiny_blender)
    with pytest.raises(InputError, match=message) as caught:
        manager(tiny_blender)
    assert "\n" not in str(caught.value)


def test_alpha_is_known_in_every_mode(tiny_blender):
    """Rendering (inference) must choose the background that training chose."""
    config = FieldDataManagerConfig(data=tiny_blender, dataparser=BlenderDataParserConfig())
    for mode in ("val", "test", "inference"):
        assert config.setup(device="cpu", test_mode=mode).train_dataset.metadata["images_have_alpha"] is True


def test_missing_data_folder(tmp_path):
    with pytest.raises(InputError, match="the data path does not exist"):
        manager(tmp_path / "nowhere")


def write_capture(folder: Path, names: list[str]) -> Path:
    (folder / "images").mkdir(parents=True)
    frames = []
    for index, name in enumerate(names):
        Image.new("RGB", (12, 8), (20 * index, 0, 0)).save(folder / "images" / name)
        angle = 2 * np.pi * index / len(names)
        pose = np.eye(4)
        pose[:3, 3] = [np.cos(angle), np.sin(angle), 0.2]
        frames.append({"file_path": f"images/{name}", "transform_matrix": pose.tolist()})
    content = {"fl_x": 10.0, "fl_y": 10.0, "cx": 6.0, "cy": 4.0, "w": 12, "h": 8, "frames": frames}
    (folder / "transforms.json").write_text(json.dumps(content))
    return folder


def test_missing_frames_are_skipped_only_if_asked(tmp_path):
    names = [f"{i:02d}.png" for i in range(20)]
    folder = write_capture(tmp_path / "capture", names)
    (folder / "images" / "05.png").unlink()
    parser = NerfstudioDataParserConfig(eval_mode="interval", eval_interval=10)
    with pytest.raises(InputError, match=r"05\.png: the image does not exist"):
        manager(folder, dataparser=parser)
    datamanager = manager(folder, dataparser=parser, skip_missing_images=True)
    assert len(datamanager.train_dataset) == 17 and len(datamanager.train_dataset.cameras) == 17
    assert all("05.png" not in str(file) for file in datamanager.train_dataset._dataparser_outputs.image_filenames)


def test_nerfstudio_json_without_poses(tmp_path):
    folder = write_capture(tmp_path / "capture", ["00.png", "01.png"])
    edit_json(folder / "transforms.json", lambda content: content["frames"][1].pop("transform_matrix"))
    with pytest.raises(InputError, match='the field "transform_matrix" of frame 1 is missing'):
        manager(folder, dataparser=NerfstudioDataParserConfig())


def test_nerfstudio_json_without_focal_length(tmp_path):
    folder = write_capture(tmp_path / "capture", ["00.png", "01.png"])
    edit_json(folder / "transforms.json", lambda content: (content.pop("fl_x"), content.pop("fl_y", None)))
    with pytest.raises(InputError, match=r"the focal length of images/00\.png is missing"):
        manager(folder, dataparser=NerfstudioDataParserConfig())


def test_rays_of_several_scales_see_means_of_squares(tiny_blender):
    """A ray of a square of pixels has its mean color over white, goes through its middle and is as wide."""
    datamanager = manager(tiny_blender, train_scales=(1, 2, 4, 2))
    rays, batch = datamanager.next_train(3)
    cameras = datamanager.train_dataset.cameras
    single, _ = manager(tiny_blender).next_train(3)
    assert torch.allclose(rays.directions[::4], single.directions[::4], atol=1e-7)
    wider = (rays.pixel_area / single.pixel_area)[:, 0]
    for ray, ((camera, row, column), color) in enumerate(zip(batch["indices"].tolist(), batch["image"])):
        side = (1, 2, 4, 2)[ray % 4]
        top, left = row - side // 2, column - side // 2
        pixels = np.asarray(Image.open(tiny_blender / "train" / f"r_{camera}.png"))[
            top : top + side, left : left + side
        ]
        pixels = pixels.reshape(-1, 4) / 255.0
        assert np.allclose(color.numpy(), (pixels[:, :3] * pixels[:, 3:] + 1 - pixels[:, 3:]).mean(0), atol=1e-6)
        middle = torch.tensor([[top + side / 2, left + side / 2]])
        expected = cameras.generate_rays(torch.tensor([[camera]]), middle)
        assert torch.allclose(rays.directions[ray], expected.directions[0], atol=1e-6)
        assert wider[ray] == pytest.approx(side**2, rel=0.2)  # a pixel at the border of a view is smaller


def test_scales_and_patches_exclude_each_other(tiny_blender):
    with pytest.raises(InputError, match="train-scales"):
        manager(tiny_blender, train_scales=(1, 2), patch_size=2)


def test_models_learn_how_wide_the_trained_pixels_are(tiny_blender):
    one, four = manager(tiny_blender), manager(tiny_blender, train_scales=(1, 4))
    cameras = one.train_dataset.cameras
    expected = 2 / np.sqrt(12) / float(cameras.fx.min())
    assert one.train_dataset.metadata["widest_pixel"] == pytest.approx(expected, rel=0.01)
    assert four.train_dataset.metadata["widest_pixel"] == pytest.approx(4 * expected, rel=0.01)


def test_a_share_of_the_rays_goes_where_the_object_is(tmp_path):
    """An eighth of the pixels is not transparent: half of the batch hits them, and an eighth of the other half."""
    data = write_tiny_blender(tmp_path / "tiny")
    for file in data.glob("train/*.png"):
        pixels = np.asarray(Image.open(file)).copy()
        pixels[..., 3] = 0
        pixels[:8, :4, 3] = 1 + pixels[:8, :4, 0] // 2
        Image.fromarray(pixels).save(file)
    drawn = manager(data, object_share=0.5)
    drawn.config.train_num_rays_per_batch = 8192
    drawn.setup_train()
    _, batch = drawn.next_train(0)
    row, column = batch["indices"][:, 1:].unbind(dim=-1)
    on_object = (row < 8) & (column < 4)
    assert bool(on_object[:4096].all())
    assert float(on_object[4096:].float().mean()) == pytest.approx(0.125, abs=0.02)
    assert len({tuple(place) for place in batch["indices"][:4096].tolist()}) == 4 * 32  # all of it
    plain = manager(data).next_eval(0)[1], manager(data, object_share=0.5).next_eval(0)[1]
    assert len(plain[0]["indices"]) == len(plain[1]["indices"])
    assert not bool((plain[1]["indices"][:32, 1] < 8).all())  # evaluation sees pixels as they are


def test_devices_share_a_batch_on_the_object(tiny_blender, monkeypatch):
    whole = manager(tiny_blender, object_share=0.5).next_train(3)[1]["indices"]
    parts = []
    for rank in range(3):
        be_device(monkeypatch, rank, 3)
        parts.append(manager(tiny_blender, object_share=0.5).next_train(3)[1]["indices"])
    assert torch.equal(torch.cat(parts), whole)


@pytest.mark.parametrize(
    "options", [{"object_share": 1.5}, {"object_share": 0.5, "single_image_batches": True}], ids=["number", "images"]
)
def test_shares_that_mean_nothing_are_refused(tiny_blender, options):
    with pytest.raises(InputError, match="object-share"):
        manager(tiny_blender, **options)


@pytest.mark.parametrize("images", ["opaque", "empty"])
def test_a_share_for_which_there_is_no_object_says_so(tmp_path, images, capsys):
    data = write_tiny_blender(tmp_path / "tiny")
    for file in data.glob("train/*.png"):
        pixels = np.asarray(Image.open(file)).copy()
        pixels[..., 3] = 0
        Image.fromarray(pixels[..., :3] if images == "opaque" else pixels).save(file)
    plain, drawn = (manager(data, object_share=share).next_train(0)[1]["indices"] for share in (0.0, 0.5))
    assert torch.equal(plain, drawn)
    assert "object-share 0.5 changes nothing" in capsys.readouterr().out
