"""The packages of the wheel: vqnmt, and in it the folders configs/ and pretrained/ of the top."""

from setuptools import find_packages, setup

FOLDERS = {"vqnmt.configs": "configs", "vqnmt.pretrained": "pretrained"}

setup(
    packages=[*find_packages(include=["vqnmt", "vqnmt.*"]), *FOLDERS],
    package_dir=FOLDERS,
    package_data={"vqnmt": ["py.typed"], "vqnmt.serve": ["static/*"]}
    # The teacher needs CTranslate2, and stays in the repository.
    | {"vqnmt.configs": ["**"], "vqnmt.pretrained": ["en-de/**"]},
)
