"""Kernel heads: ridge regression in the space of a kernel between records."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor, nn

from enecg.stage1.heads import answer, spread, standardised
from enecg.stage1.ridge import CHUNK, Tall, Wide, answering, ridge_targets, scores_left_out
from enecg.tasks import Task

KERNELS = {"gaussian": 2.0, "laplacian": 1.128}
"""The kernels, and what the squared, or the absolute, difference of two standard normal numbers is
on average: two records that differ by as much are similar by 1/e. Half of that width and twice as
much were worse on real ECGs."""
ALPHAS = torch.logspace(-3, 1, 9, dtype=torch.float64)
"""Penalties tried; a record's similarity to itself is 1."""
MOST_LANDMARKS = 4096
"""Records that others are compared with: all training records, or so many of them."""


class KernelHead(nn.Module):
    """A weighted sum of a record's similarities to some training records, its landmarks.

    Parameters
    ----------
    kernel : {"gaussian", "laplacian"}
        See `similarity`.
    task : Task
        Gives the output width C and what the output means.
    n_landmarks, width_in : int
        M and D.

    Attributes
    ----------
    landmark_MD, coef_MC, intercept_C
        The landmarks' standardised features, and what their similarities are weighted by.
    """

    feature_mean: Tensor
    feature_std: Tensor
    landmark_MD: Tensor
    coef_MC: Tensor
    intercept_C: Tensor
    target_mean: Tensor
    target_std: Tensor
    hidden = ()

    def __init__(self, kernel: str, task: Task, n_landmarks: int, width_in: int) -> None:
        super().__init__()
        self.kernel = kernel
        self.kind, self.width = task.kind, task.width
        self.register_buffer("feature_mean", torch.zeros(width_in))
        self.register_buffer("feature_std", torch.ones(width_in))
        self.register_buffer("landmark_MD", torch.zeros(n_landmarks, width_in))
        # float64: large weights of alternating sign cancel.
        self.register_buffer("coef_MC", torch.zeros(n_landmarks, task.width, dtype=torch.float64))
        self.register_buffer("intercept_C", torch.zeros(task.width, dtype=torch.float64))
        self.register_buffer("target_mean", torch.zeros(1))
        self.register_buffer("target_std", torch.ones(1))

    @classmethod
    def of_state(cls, kernel: str, state: dict[str, Tensor], task: Task) -> KernelHead:
        """Build a head from saved tensors."""
        head = cls(kernel, task, *state["landmark_MD"].shape)
        head.load_state_dict(state)
        return head

    def forward(self, f_BD: Tensor) -> Tensor:
        """Return standardised values or class logits, shape (B, C)."""
        return self.weighed(self.similar(f_BD))

    def similar(self, f_BD: Tensor) -> Tensor:
        """Return similarities to the landmarks, shape (B, M); nearly all of the work."""
        z_BD = standardised(f_BD, self.feature_mean, self.feature_std)
        return similarity(self.kernel, z_BD, self.landmark_MD)

    def weighed(self, similar_BM: Tensor) -> Tensor:
        """Return `forward` from what `similar` gave."""
        return similar_BM @ self.coef_MC + self.intercept_C

    def fingerprint(self) -> str:
        """Return the SHA-256 of all that `similar` depends on but the features."""
        digest = hashlib.sha256(self.kernel.encode())
        for tensor in (self.feature_mean, self.feature_std, self.landmark_MD):
            digest.update(tensor.cpu().contiguous().numpy().data)
        return digest.hexdigest()

    def answer(self, out_BC: Tensor) -> Tensor:
        """Turn what `forward` gives into values in the task's unit, or class probabilities."""
        return answer(self.kind, out_BC, self.target_mean, self.target_std)


def similarity(kernel: str, one_BD: Tensor, other_MD: Tensor) -> Tensor:
    """Return how similar the records of two sets are, by their standardised features.

    ``gaussian``: exp(-s / 2), s being the mean squared difference of their features.
    ``laplacian``: exp(-a / 1.128), a being the mean absolute difference: a few features that lie
    far apart count for less.

    Gaussian ones of float64 features are exact; of float32 ones they are products in float32, some
    1e-6 off and several times as fast: good enough to answer with, not to fit with.

    Returns
    -------
    float64 tensor, shape (B, M)
    """
    if kernel == "gaussian":
        mode = "use_mm_for_euclid_dist"
        apart_BM = torch.cdist(one_BD, other_MD, compute_mode=mode).double().square()
    else:
        apart_BM = torch.cdist(one_BD, other_MD, p=1).double()
    return torch.exp(-apart_BM / (KERNELS[kernel] * one_BD.shape[1]))


def fit_kernel(
    kernel: str,
    f_RD: Tensor,
    target_R: Tensor,
    part_R: Tensor,
    task: Task,
    balance: bool = False,
) -> KernelHead:
    """Fit a kernel head on some records; its penalty by cross-validation over ``part_R``.

    Kernel ridge regression (Saunders et al., ICML 1998), written as ridge regression on features
    whose inner products are the similarities; where there are more records than
    `MOST_LANDMARKS`, by Nyström's approximation (Williams & Seeger, NIPS 2000). Classes are
    treated as by `fit_ridge`.

    Parameters
    ----------
    kernel : {"gaussian", "laplacian"}
    f_RD, target_R, part_R, task, balance
        As for `fit_ridge`.
    """
    rows = torch.arange(len(f_RD))
    if len(rows) > MOST_LANDMARKS:
        random = torch.Generator().manual_seed(0)
        rows = torch.randperm(len(rows), generator=random)[:MOST_LANDMARKS].sort().values
    head = KernelHead(kernel, task, len(rows), f_RD.shape[1])
    head.feature_mean.copy_(f_RD.mean(0))
    head.feature_std.copy_(spread(f_RD))
    if task.kind == "regression":
        head.target_mean.fill_(float(target_R.mean()))
        head.target_std.fill_(float(target_R.std(correction=0)) or 1.0)
    z_RD = standardised(f_RD, head.feature_mean, head.feature_std)
    head.landmark_MD.copy_(z_RD[rows])
    y_RC = ridge_targets(head, target_R, task)

    data, root_MM = _as_ridge(kernel, z_RD, head.landmark_MD, y_RC, part_R)
    scores_ARC = scores_left_out(data, y_RC, part_R, ALPHAS)
    best = int((scores_ARC - y_RC).square().mean((1, 2)).argmin())
    [(coef_MC, intercept_C)] = data.solve(ALPHAS[best : best + 1])
    slope_C, bias_C = answering(scores_ARC[best], target_R, task, balance)
    head.coef_MC.copy_(torch.linalg.solve_triangular(root_MM.T, coef_MC, upper=True) * slope_C)
    head.intercept_C.copy_(intercept_C * slope_C + bias_C)
    return head


def _as_ridge(
    kernel: str, z_RD: Tensor, landmark_MD: Tensor, y_RC: Tensor, part_R: Tensor
) -> tuple[Wide | Tall, Tensor]:
    """Ridge regression on features whose inner products are the similarities, and the matrix L.

    Similarities S to the landmarks become features S L⁻ᵀ, where L Lᵀ are the landmarks' own.
    """
    if kernel == "gaussian":
        z_RD, landmark_MD = z_RD.double(), landmark_MD.double()
    own_MM = similarity(kernel, landmark_MD, landmark_MD)
    alike_RM = own_MM
    if len(z_RD) > len(landmark_MD):
        alike_RM = torch.cat([similarity(kernel, z, landmark_MD) for z in z_RD.split(CHUNK)])
    root_MM = _root(own_MM)
    phi_RM = torch.linalg.solve_triangular(root_MM, alike_RM.T, upper=False).T
    solver = Wide if phi_RM.shape[0] <= phi_RM.shape[1] else Tall
    return solver(lambda places: phi_RM[places], y_RC, part_R), root_MM


def _root(own_MM: Tensor) -> Tensor:
    """Return the Cholesky root of similarities with as little added to the diagonal as it takes.

    The same signal can be there twice; then the similarities alone have none. And where many are
    almost the same, those in float32 are no more exact than their differences are small.
    """
    root_MM: Tensor
    for extra in (1e-8, 1e-6, 1e-4, 1e-2):
        more_MM = extra * torch.eye(len(own_MM)).to(own_MM)
        root_MM, failed = torch.linalg.cholesky_ex(own_MM + more_MM)
        # Exactly computed, no square on the root's diagonal is below what was added.
        if not failed and root_MM.diagonal().square().min() > extra / 2:
            break
    return root_MM
