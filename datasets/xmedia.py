"""XMedia: 5,000 pairs of images and texts in 20 classes (two of its five media)."""

from __future__ import annotations

from typing import ClassVar

from xmbench.data import Corpus, DatasetCard, Split

from ._parts import BOVW, BOW, CNN, LDA
from ._xmedia import FilesOrFolders, official


def _official(corpus: Corpus, seed: int) -> Split:
    """4,000 / 500 / 500: the file's training rows, and its test rows halved by class for validation and test."""
    return official(corpus, "official", seed)


class XMedia(FilesOrFolders):
    """Reads ``XMediaFeatures.mat``, or folders of images and texts."""

    card = DatasetCard(
        title="XMedia",
        source="on request: http://www.icst.pku.edu.cn/mipl/XMedia (file XMediaFeatures.mat)",
        licence="none stated; for research, on request from its authors",
        citation="Zhai, Peng, Xiao, Learning cross-media joint representation with sparse and semisupervised "
        "regularization, IEEE TCSVT 24(6), 2014; Peng, Zhai, Zhao, Huang, Semi-supervised cross-media feature "
        "learning with unified patch graph regularization, IEEE TCSVT 26(3), 2016",
        layout=(
            "xmedia/{XMediaFeatures,xmedia_features,Features}.mat   (v5 or 7.3; one of them)",
            "    I_tr_CNN I_te_CNN or I_tr I_te; T_tr_BOW T_te_BOW or T_tr T_te; trImgCat teImgCat",
            "xmedia/categories.list   (optional: the 20 class names, a line each)",
            "or, for raw images and texts: xmedia/image/<class>/<id>.jpg and xmedia/text/<class>/<id>.txt",
        ),
        pairs=5000,
        image_text="web images and passages of text; video, audio and 3D of the dataset are not read",
        defects=(
            "key names unchecked against the real file: they are those that public loaders read",
            "the feature file names neither items nor classes: items are numbered by part, classes by label",
            "with folders the split is a seeded draw of 80 / 10 / 10 % by class, for folders bring none",
            "public code takes the first 500 test rows for validation; here they are drawn by class",
        ),
    )
    name = "xmedia"
    n_classes = 20
    folders: ClassVar = ("xmedia", "XMedia")
    files: ClassVar = ("XMediaFeatures.mat", "xmedia_features.mat", "Features.mat")
    aliases: ClassVar = {"image": {"cnn": CNN, "bovw": BOVW}, "text": {"bow": BOW, "lda": LDA}}
    stored: ClassVar = {
        "image": {
            "cnn": "4,096 outputs of a convolutional network (from the file)",
            "bovw": "bag of visual words (from the file)",
        },
        "text": {"bow": "bag of words (from the file)", "lda": "LDA topics (from the file)"},
    }
    features = "cnn+bow"
    scalings: ClassVar = {
        "cnn": "l2_center_scale",
        "bovw": "zscore",
        "bow": "l2_center_scale",
        "lda": "zscore",
    }
    splits: ClassVar = {"official": _official}


DATASET = XMedia
