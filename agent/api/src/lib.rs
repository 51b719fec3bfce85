//! What manxd answers on its local API and manxctl reads: types only.
