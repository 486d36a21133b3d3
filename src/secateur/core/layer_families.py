"""Families of standard layers whose size attributes follow their tensors."""

from __future__ import annotations

from torch import nn

# torch's common base classes are private; these are all that derive from them
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, *TRANSPOSED)
CHANNEL_NORMS = (
    nn.BatchNorm1d,
    nn.BatchNorm2d,
    nn.BatchNorm3d,
    nn.SyncBatchNorm,
    nn.InstanceNorm1d,
    nn.InstanceNorm2d,
    nn.InstanceNorm3d,
)
RECURRENT = (nn.RNN, nn.LSTM, nn.GRU, nn.RNNCell, nn.LSTMCell, nn.GRUCell)
GATES: dict[type[nn.Module], int] = {nn.LSTM: 4, nn.LSTMCell: 4, nn.GRU: 3, nn.GRUCell: 3}
"""Rows for each hidden unit in the weights of a recurrent layer; of others one."""
SHAPED_NORMS = (nn.LayerNorm, nn.RMSNorm)
SIZED = (*CONVOLUTIONS, *CHANNEL_NORMS, *SHAPED_NORMS, nn.Linear, nn.PReLU, nn.GroupNorm, nn.Embedding, nn.EmbeddingBag)
