import torch

# sums and matrix products of torch depend on its number of threads in the last bits
torch.set_num_threads(1)
