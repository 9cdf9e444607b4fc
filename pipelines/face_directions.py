"""Directions of the latent space without looking at a single picture: closed-form factorisation.

Shen & Zhou 2021, "Closed-Form Factorization of Latent Semantics in GANs" (https://arxiv.org/abs/2007.06600).
"""

import numpy as np
import torch

from .models.stylegan2 import Generator


def affine_weights(net: Generator, first: int, last: int) -> list[torch.Tensor]:
    """The matrices (C, w_dim) that turn rows first..last of W+ into styles of convolutions.

    RGB layers count where they are alone with their row, which is the last one's.
    """
    convs = [net.conv, *(conv for block in net.blocks for conv in (block.up, block.conv)), net.blocks[-1].to_rgb]
    return [layer.conv.affine.weight for layer in convs[first : last + 1]]


def factorise(net: Generator, first: int, last: int) -> tuple[np.ndarray, np.ndarray]:
    """Layers first..last -> unit vectors n (w_dim, w_dim), one a row, and eigenvalues (w_dim,), both falling.

    n maximises |A n| (eq. 4), so it is an eigenvector of A^T A (eq. 5, 6); rows of A have length 1. An eigenvector has
    no sign: the largest entry is positive here, so that sliders point the same way on every machine.
    """
    a = torch.cat(affine_weights(net, first, last)).double().cpu().numpy()
    a /= np.maximum(np.linalg.norm(a, axis=1, keepdims=True), 1e-12)
    values, vectors = np.linalg.eigh(a.T @ a)  # rising
    values, vectors = values[::-1], vectors.T[::-1]
    largest = np.abs(vectors).argmax(1)[:, None]
    vectors = vectors * np.sign(np.take_along_axis(vectors, largest, 1))
    return vectors.astype(np.float32), values.copy()
