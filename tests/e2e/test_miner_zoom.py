"""A zoom into a fitted image as a video."""

from __future__ import annotations

import imageio_ffmpeg
import numpy as np
import skimage.data
from nerfstudio.scripts import render
from PIL import Image

from miner_ns.fitting import FitOptions
from miner_ns.scripts.zoom_path import ZoomPath
from tests.e2e.running import assert_video, run_config, train


def test_a_zoom_is_rendered_as_video(tmp_path):
    photo = Image.fromarray(skimage.data.astronaut()).resize((48, 48), Image.Resampling.BOX)
    photo.save(tmp_path / "photo.png")
    options = FitOptions(num_levels=2, block_size=16, epochs=(75,), batch_points=32, implementation="torch")
    run = train(run_config("miner-image", tmp_path / "photo.png", tmp_path, 10**6, fit=options))
    path = ZoomPath(load_config=run, target=(12.0, 22.0), zoom_factor=4.0, seconds=0.1, resolution=(64, 64)).main()
    video = tmp_path / "zoom.mp4"
    render.RenderCameraPath(run, output_path=video, camera_path_filename=path).main()
    assert_video(video)

    reader = imageio_ffmpeg.read_frames(str(video))
    size = next(reader)["size"]
    frames = [np.frombuffer(frame, np.uint8).reshape(*size[::-1], 3).astype(float) for frame in reader]
    assert len(frames) == 3
    # The first shows all of the photo, the last a quarter of its width around the target.
    whole = np.asarray(photo.resize((64, 64), Image.Resampling.BILINEAR), dtype=float)
    part = photo.resize((64, 64), Image.Resampling.BILINEAR, box=(16.5, 6.5, 28.5, 18.5))
    assert np.abs(frames[0] - whole).mean() < 16 and np.abs(frames[-1] - np.asarray(part, dtype=float)).mean() < 20
    assert np.abs(frames[0] - frames[-1]).mean() > 30
