"""XMediaNet: 40,000 pairs of images and texts in 200 classes (two of its five media)."""

from __future__ import annotations

from typing import ClassVar

from xmbench.data import Corpus, DatasetCard, Split

from ._parts import CNN, DOC2VEC
from ._xmedia import FilesOrFolders, official


def _cmgans(corpus: Corpus, seed: int) -> Split:
    """32,000 / 4,000 / 4,000: the file's parts; test rows halved by class where it has no validation rows."""
    return official(corpus, "cmgans", seed)


class XMediaNet(FilesOrFolders):
    """Reads a feature file (``.mat`` or HDF5), or folders of images and texts."""

    card = DatasetCard(
        title="XMediaNet",
        source="on request: http://www.icst.pku.edu.cn/mipl/XMediaNet",
        licence="none stated; for research, on request from its authors",
        citation="Peng, Huang, Zhao, An overview of cross-media retrieval: concepts, methodologies, benchmarks "
        "and challenges, IEEE TCSVT 28(9), 2018; Huang, Peng, Yuan, MHTN: modal-adversarial hybrid transfer "
        "network, IEEE Transactions on Cybernetics 50(3), 2020",
        layout=(
            "xmedianet/XMediaNet5View_Doc2Vec.mat   (cell arrays train, valid, test and *_labels: image, text)",
            "or xmedianet/xmedianet_deep_doc2vec_data.h5py   ({train,test}_{imgs_deep,text,imgs_labels})",
            "or xmedianet/XMediaNetFeatures.mat   (v5 or 7.3, with either set of names)",
            "xmedianet/categories.list   (optional: the 200 class names, a line each)",
            "or, for raw images and texts: xmedianet/image/<class>/<id>.jpg and xmedianet/text/<class>/<id>.txt",
        ),
        pairs=40000,
        image_text="images and encyclopedia texts of animals and artefacts; video, audio and 3D are not read",
        defects=(
            "key names unchecked against the real file: they are those that public loaders read",
            "feature files name neither items nor classes: items are numbered by part, classes by label",
            "which test rows are validation is published only inside the five-view file; for others, and for "
            "folders (80 / 10 / 10 %), it is a seeded draw by class",
        ),
    )
    name = "xmedianet"
    n_classes = 200
    folders: ClassVar = ("xmedianet", "XMediaNet")
    files: ClassVar = (
        "XMediaNet5View_Doc2Vec.mat",
        "xmedianet_deep_doc2vec_data.h5py",
        "XMediaNetFeatures.mat",
    )
    aliases: ClassVar = {"image": {"cnn": CNN}, "text": {"doc2vec": DOC2VEC}}
    stored: ClassVar = {
        "image": {"cnn": "4,096 outputs of a convolutional network (from the file)"},
        "text": {"doc2vec": "Doc2Vec vectors, 300 in the files in use (from the file)"},
    }
    features = "cnn+doc2vec"
    scalings: ClassVar = {"cnn": "l2_center_scale", "doc2vec": "l2_center_scale"}
    splits: ClassVar = {"cmgans": _cmgans}


DATASET = XMediaNet
