"""High-level features of jets: what a tagger without images would use."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from retrain.data.clustering import load_fastjet, quiet_exclusive_jets
from retrain.data.jet_table import Jets
from retrain.errors import DataError

FEATURES = ("mass", "tau21", "tau32", "multiplicity")
JET_RADIUS = 0.8
KT_RADIUS = 1.5 * JET_RADIUS  # large enough that kT clustering never leaves a constituent out
MAX_AXES = 3
JETS_PER_STEP = 5000


def n_subjettiness(constituents: NDArray[np.float32]) -> NDArray[np.float64]:
    """tau_1, tau_2, tau_3 (beta = 1) of jets float32[N, 200, 4] as float64[N, 3].

    J. Thaler and K. Van Tilburg, JHEP 03 (2011) 015, arXiv:1011.2268; axes are exclusive-kT subjets recombined
    winner-take-all (A. Larkoski, D. Neill and J. Thaler, JHEP 04 (2014) 017, arXiv:1401.2158).
    """
    fastjet = load_fastjet()
    import awkward as ak

    momenta = constituents.astype(np.float64)
    pt = np.hypot(momenta[..., 1], momenta[..., 2])
    present = pt > 0.0
    eta = np.arcsinh(momenta[..., 3] / np.where(present, pt, 1.0))
    phi = np.arctan2(momenta[..., 2], momenta[..., 1])
    flat = {name: momenta[..., i][present] for i, name in enumerate(("E", "px", "py", "pz"))}
    counts = present.sum(axis=1)
    events = ak.unflatten(ak.zip(flat, with_name="Momentum4D"), counts)
    definition = fastjet.JetDefinition(fastjet.kt_algorithm, KT_RADIUS, fastjet.WTA_pt_scheme)
    result = np.zeros((len(constituents), MAX_AXES))
    for axes in range(1, MAX_AXES + 1):
        enough = counts >= axes  # with fewer constituents than axes each is its own axis: tau is 0
        if not enough.any():
            continue
        cluster = fastjet.ClusterSequence(events[enough], definition)
        with quiet_exclusive_jets():
            subjets = cluster.exclusive_jets(n_jets=axes)
        axis_eta, axis_phi = (
            ak.to_numpy(ak.fill_none(ak.pad_none(values, axes, clip=True), filler))
            for values, filler in ((subjets.eta, 99.0), (subjets.phi, 0.0))
        )
        delta_phi = (phi[enough][..., None] - axis_phi[:, None] + np.pi) % (2 * np.pi) - np.pi
        nearest = np.hypot(eta[enough][..., None] - axis_eta[:, None], delta_phi).min(axis=2)
        weighted = (pt[enough] * nearest).sum(axis=1)
        result[enough, axes - 1] = weighted / (JET_RADIUS * pt[enough].sum(axis=1))
    return result


def high_level_features(jets: Jets, progress: Callable[[int], None] = lambda _: None) -> NDArray[np.float64]:
    """`FEATURES` of each jet: float64[N, 4]; masses in GeV.

    Raises:
        DataError: A feature is not finite.
    """
    rows = []
    for first in range(0, len(jets), JETS_PER_STEP):
        part = jets.take(slice(first, first + JETS_PER_STEP))
        tau = n_subjettiness(part.constituents)
        ratios = tau[:, 1:] / np.maximum(tau[:, :-1], 1e-9)
        rows.append(np.column_stack([part.mass, ratios, part.multiplicity]))
        progress(len(part))
    features = np.concatenate(rows) if rows else np.empty((0, len(FEATURES)))
    if not np.isfinite(features).all():
        bad = FEATURES[int(np.argwhere(~np.isfinite(features))[0, 1])]
        raise DataError(f"feature {bad}: contains NaN or infinite values")
    return features
