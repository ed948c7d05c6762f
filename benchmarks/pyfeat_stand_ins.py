"""XGB's .skops file with made-up contents, which only scikit-learn, xgboost and skops can write: run by py-feat's own Python.

    PYFEAT_ENV/bin/python benchmarks/pyfeat_stand_ins.py FOLDER

The classes are py-feat's, so that py-feat loads it, and fexport reads it as data. The numbers of trees, their depth and the widths of
the features are made up like their values: HOG and its scaling cost what they cost, the trees next to nothing.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from feat.au_detectors.StatLearning.SL_test import XGBClassifier as OfPyFeat
from sklearn.decomposition import PCA
from sklearn.preprocessing import StandardScaler
from skops.io import dump
from xgboost import XGBClassifier

NAME = "xgb_au_classifier_v2.skops"
HOG, HALF, POINTS = 5408, 2414, 136
REGIONS = {"upper": slice(0, HALF), "lower": slice(HALF, HOG), "full": slice(0, HOG)}
UNITS = {"upper": (1, 2, 7), "lower": (11, 14, 17, 23, 24, 26), "full": (4, 5, 6, 9, 10, 12, 15, 20, 25, 28, 43)}
HINGE = 7
"""The action unit whose published classifier answers 0 or 1."""
WIDTH = 16


def main() -> None:
    """Fit it on noise and write it."""
    rng = np.random.RandomState(0)
    made = OfPyFeat.__new__(OfPyFeat)
    for region, part in REGIONS.items():
        hog = np.zeros((64, HOG))
        hog[:, part] = rng.gamma(1.0, 0.05, (64, part.stop - part.start))
        scaler = StandardScaler().fit(hog)
        setattr(made, f"scaler_{region}", scaler)
        setattr(made, f"pca_model_{region}", PCA(WIDTH, svd_solver="full").fit(scaler.transform(hog)))
    made.classifiers = {}
    for units in UNITS.values():
        for unit in units:
            features = np.concatenate([rng.standard_normal((300, WIDTH)) * 3, rng.randint(0, 112, (300, POINTS))], 1)
            answer = (features[:, 0] + features[:, WIDTH] / 30 > 2).astype(int)
            objective = "binary:hinge" if unit == HINGE else "binary:logistic"
            model = XGBClassifier(n_estimators=24, max_depth=3, objective=objective, n_jobs=1, random_state=0)
            made.classifiers[f"AU{unit}"] = model.fit(features, answer)
    made.au_keys = [f"AU{unit}" for unit in sorted(sum(UNITS.values(), ()))]
    made.weights_loaded = True
    dump(made, Path(sys.argv[1]) / NAME)


if __name__ == "__main__":
    main()
