"""Uploaded images and their predictions."""

from collections.abc import Sequence

from PIL.Image import Image
from starlette.datastructures import UploadFile as Upload

from anyclass.data import open_bytes
from anyclass.errors import ImageError
from anyclass.review import schema
from anyclass.review.image_index import ImagePrediction
from anyclass.review.session import Session


def predict_uploads(
    session: Session, uploads: Sequence[Upload], top: int, nearest: int
) -> list[schema.UploadPrediction]:
    """Prediction of each uploaded image that can be read, and why the others cannot."""
    opened = [_open(session, upload) for upload in uploads]
    good = [image for image in opened if not isinstance(image, ImageError)]
    predictions = iter(session.index.predict(good, top, nearest))
    return [
        _rejected(upload, image)
        if isinstance(image, ImageError)
        else _prediction(session, upload, next(predictions))
        for upload, image in zip(uploads, opened, strict=True)
    ]


def _open(session: Session, upload: Upload) -> Image | ImageError:
    """The uploaded image, decoded as the images of the run, or why it cannot be read."""
    try:
        return open_bytes(upload.file.read(), shorter_side=session.index.shorter_side)
    except ImageError as error:
        return error


def _rejected(upload: Upload, error: ImageError) -> schema.UploadPrediction:
    """An image that cannot be read, and why."""
    return schema.UploadPrediction(file_name=_name(upload), status="rejected", reason=str(error))


def _prediction(
    session: Session, upload: Upload, prediction: ImagePrediction
) -> schema.UploadPrediction:
    """The most probable classes of an image, and the images of the run that are nearest."""
    catalogue = session.catalogue
    labels = session.corrections.labels
    pairs = zip(prediction.classes, prediction.probabilities, strict=True)
    top = [schema.Probability(label=name, probability=p) for name, p in pairs]
    near = [
        schema.Near(
            id=i,
            file_name=catalogue.files[i],
            label=catalogue.label(i, labels),
            known=catalogue.given(i) or catalogue.files[i] in labels,
            similarity=similarity,
        )
        for i, similarity in zip(prediction.nearest, prediction.similarities, strict=True)
    ]
    return schema.UploadPrediction(
        file_name=_name(upload),
        status="ok",
        label=prediction.label,
        score=top[0].probability,
        familiarity=prediction.familiarity,
        top=top,
        nearest=near,
    )


def _name(upload: Upload) -> str:
    """Name of an uploaded file, as it was sent."""
    return (upload.filename or "").encode("utf-8", "replace").decode("utf-8")
