"""The face networks that `bench portrait --faces insightface` measures: as large as the published ones, and told what
to say."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("insightface")

from engine.bench.face_networks import write_random_pack
from engine.bench.faces import DlibFaces, bench_faces
from engine.profiles import read_id_templates


def test_stand_ins_are_as_large_as_the_published_networks(tmp_path: Path) -> None:
    """Parameters and file sizes of buffalo_l's files; SCRFD-10GF does 10 Gmac at 640x480, IResNet-50 6.3."""
    costs = write_random_pack(tmp_path)
    assert costs["det_10g"]["million_parameters"] == pytest.approx(4.23, abs=0.01)
    assert costs["det_10g"]["gmac"] * 480 / 640 == pytest.approx(10, rel=0.01)
    assert costs["w600k_r50"]["million_parameters"] == pytest.approx(43.59, abs=0.01)
    assert costs["w600k_r50"]["gmac"] == pytest.approx(6.3, rel=0.01)
    assert (tmp_path / "det_10g.onnx").stat().st_size == pytest.approx(16_923_827, rel=0.001)
    assert (tmp_path / "w600k_r50.onnx").stat().st_size == pytest.approx(174_383_860, rel=0.001)


def test_what_is_told_is_what_dlib_says_and_it_is_waited_for_once(tmp_path: Path) -> None:
    picture = read_id_templates()[0].rgb
    faces, about = bench_faces("insightface", tmp_path, "cpu", tiny=True)
    says = DlibFaces()
    (found,), (expected,) = faces(picture), says(picture)
    (near,) = faces.near(picture, found)
    assert near.box_xyxy == pytest.approx(says.near(picture, expected)[0].box_xyxy)
    assert found.box_xyxy == expected.box_xyxy
    lighter = np.minimum(picture, 254) + np.uint8(1)
    own, other = faces.embed(picture, found), faces.embed(lighter, found)
    np.testing.assert_array_equal(own, says.embed(picture, expected))
    assert not np.array_equal(own, other)
    assert (faces.calls, faces.asked) == (4, 4)
    faces(picture)
    faces.near(picture, found)
    faces.embed(lighter, found)
    assert (faces.calls, faces.asked) == (7, 4)
    assert about["provider"] == "CPUExecutionProvider"
