"""Bulk work on several machines: images in parts, a Parquet file for each, on Ray Data.

`sources` divides the images into parts, `worker` computes one, `results` knows what is there and
what was asked for, `cluster` hands the missing parts to workers.
"""

from dataclasses import fields
from typing import Annotated, Literal

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from anyclass.errors import RequestError


@dataclass(frozen=True, config=ConfigDict(extra="forbid", use_attribute_docstrings=True))
class Bulk:
    """Where a command computes."""

    on: Literal["here", "ray"] = "here"
    """Where to compute: here, in one process, or on ray, in many processes on this machine or a
    cluster. With ray, `--images` may also be an address such as s3://bucket/photos, and a folder of
    Parquet files or WebDataset archives; `--out` is a folder or an address."""
    address: str | None = None
    """With ray: address of a Ray cluster, HOST:PORT, or auto on a machine of it; by default one is
    started on this machine and ended with the command."""
    workers: Annotated[int, Field(gt=0)] | None = None
    """With ray: number of workers; by default one per GPU, or as many as the processor cores
    allow. Each loads the model."""
    cpus: Annotated[int, Field(gt=0)] = 1
    """With ray: processor cores per worker. Raise it for a GPU; otherwise it waits for images."""
    part_size: Annotated[int, Field(gt=0)] = 1000
    """With ray: approximate number of images of a part. A part becomes one Parquet file, and is
    repeated if its worker is killed."""
    image_column: str | None = None
    """With ray: column of Parquet files that holds the images; by default the one of bytes."""

    def __post_init__(self) -> None:
        """Refuse options of Ray without it.

        Raises:
            RequestError: there is one.
        """
        for option in fields(self):
            if self.on == "here" and getattr(self, option.name) != option.default:
                flag = option.name.replace("_", "-")
                raise RequestError(f"--{flag} belongs to --on ray: add it, or leave --{flag} out")
