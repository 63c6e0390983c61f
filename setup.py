# SPDX-License-Identifier: Apache-2.0
"""Build of the ament_python package; `colcon build` and `pip install .` both come through here."""

from pathlib import Path

from setuptools import find_packages, setup

PACKAGE = "dualfocus_ros"
SHARE = Path("share") / PACKAGE

# Folders that go to share/dualfocus_ros as they are, with every file below them.
SHARED_FOLDERS = ("launch", "config", "models")


def shared_files() -> list[tuple[str, list[str]]]:
    """Return (install folder, files) for all that is found at run time through the share directory."""
    found: dict[Path, list[str]] = {}
    for top in SHARED_FOLDERS:
        for path in sorted(Path(top).rglob("*")):
            hidden = any(part.startswith((".", "__")) for part in path.parts)
            # Weights to train on from stay behind: no node reads them.
            if path.is_file() and not hidden and path.suffix != ".pt":
                found.setdefault(SHARE / path.parent, []).append(str(path))
    return [(str(folder), files) for folder, files in found.items()]


setup(
    name=PACKAGE,
    version="0.1.0",
    packages=find_packages(include=[PACKAGE, f"{PACKAGE}.*"]),
    package_data={f"{PACKAGE}.evaluation": ["*.j2", "*.css"]},
    data_files=[
        ("share/ament_index/resource_index/packages", [f"resource/{PACKAGE}"]),
        (str(SHARE), ["package.xml"]),
        *shared_files(),
    ],
    python_requires=">=3.10",
    # ROS users get NumPy, OpenCV and the rest from apt through rosdep. Those leave no pip metadata under the
    # names that pip knows (apt's OpenCV has none at all), so requiring them here would break installed scripts.
    # pip users ask for them: pip install .[runtime]
    install_requires=["setuptools"],
    extras_require={
        "runtime": [
            "numpy>=1.21",
            "opencv-python-headless>=4.5",
            "PyYAML>=5.4",
            "tabulate>=0.8",
            "matplotlib>=3.5",
            "scipy>=1.8",
            "Jinja2>=3.0",
            "onnxruntime>=1.17",
            "tqdm>=4.60",
            # Recordings: rosbags reads and writes them, mcap (with zstandard) reads damaged ones.
            "rosbags>=0.11",
            "mcap>=1.2",
            "zstandard>=0.19",
        ],
        # Training and export.
        "learning": ["torch>=2.9", "onnx>=1.17", "onnxscript>=0.5", "onnxruntime>=1.17", "tqdm>=4.60"],
        # Drivers of real cameras, each by its own name. Picamera2 comes from apt, with libcamera.
        "v4l2": ["linuxpy>=0.20"],
        "depthai": ["depthai>=2.24"],
        "genicam": ["pypylon>=3.0"],
        "optotune": ["pyserial>=3.5"],
        # Loaders of published data sets.
        "datasets": ["h5py>=3.8", "scipy>=1.8", "OpenEXR>=3.3", "tqdm>=4.60"],
        # colcon runs pytest only where an extra of this name asks for it.
        "test": ["pytest>=6.2", "pytest-timeout>=2.1", "scipy>=1.8", "onnx>=1.15"],
    },
    zip_safe=False,
    maintainer="dualfocus_ros maintainers",
    description="Metric depth from a camera with movable focus: focal sweep, alignment, depth and point clouds.",
    license="Apache-2.0",
    entry_points={
        "console_scripts": [
            "camera_node = dualfocus_ros.nodes.executables:camera_node",
            "depth_node = dualfocus_ros.nodes.executables:depth_node",
            "evaluation_node = dualfocus_ros.nodes.executables:evaluation_node",
            "replay_node = dualfocus_ros.nodes.executables:replay_node",
            "dualfocus = dualfocus_ros.cli:main",
        ],
    },
)
