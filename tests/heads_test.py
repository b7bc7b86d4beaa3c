"""The heads of networks: embeddings and BYOL's MLP."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from landmarks_jax.models import heads


@pytest.mark.parametrize('layers', [1, 2])
def test_embeddings_are_unit_rows_of_a_pooled_linear_map(layers):
  maps = np.random.default_rng(0).normal(size=(3, 2, 4, 6)).astype(np.float32)
  head = heads.EmbeddingHead(dim=5, layers=layers)
  params = head.init(jax.random.key(0), maps)['params']
  x = maps.mean((1, 2))
  for i in range(layers):
    layer = params[f'fc{i}']
    x = np.maximum(x, 0) if i else x
    x = x @ np.asarray(layer['kernel']) + np.asarray(layer['bias'])
    bound = 6**-0.5
    assert 0.5 * bound < np.abs(layer['kernel']).max() <= bound
    assert 0.2 * bound < np.abs(layer['bias']).max() <= bound
  expected = x / np.linalg.norm(x, axis=1, keepdims=True)
  np.testing.assert_allclose(head.apply({'params': params}, maps), expected, atol=1e-6)


def test_an_embedding_of_nothing_has_a_finite_gradient():
  head = heads.EmbeddingHead(dim=3)
  params = jax.tree.map(jnp.zeros_like, head.init(jax.random.key(0), jnp.ones((1, 2, 2, 4))))
  grads = jax.grad(lambda p: head.apply(p, jnp.ones((2, 2, 2, 4))).sum())(params)
  assert all(np.isfinite(g).all() for g in jax.tree.leaves(grads))


def test_the_mlp_of_byol_is_linear_norm_relu_and_a_linear_map_without_bias():
  r = np.random.default_rng(0)
  rows = r.normal(size=(12, 6)).astype(np.float32)
  valid = np.arange(12) % 4 > 0
  head = heads.NormedMLP(hidden=9, dim=5)
  params = head.init(jax.random.key(0), rows, False)['params']
  assert {k: tuple(v) for k, v in params.items()} == {
    'fc0': ('kernel', 'bias'),
    'norm': ('scale', 'bias'),
    'fc1': ('kernel',),
  }
  assert 0.5 * 6**-0.5 < np.abs(params['fc0']['kernel']).max() <= 6**-0.5
  assert 0.5 * 9**-0.5 < np.abs(params['fc1']['kernel']).max() <= 9**-0.5
  params = jax.tree.map(lambda p: p + r.normal(size=p.shape).astype('f'), params)
  found, _ = head.apply({'params': params}, rows, True, valid, mutable=['batch_stats'])
  x = rows @ params['fc0']['kernel'] + params['fc0']['bias']
  x = (x - x[valid].mean(0)) / np.sqrt(x[valid].var(0) + 1e-5)
  x = np.maximum(x * params['norm']['scale'] + params['norm']['bias'], 0)
  np.testing.assert_allclose(found[valid], (x @ params['fc1']['kernel'])[valid], atol=1e-4)
