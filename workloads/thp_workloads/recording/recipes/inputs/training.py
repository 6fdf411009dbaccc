"""`training.py STEPS`: a small convolutional network, trained for a few steps on random images."""

import sys

import torch

torch.set_num_threads(1)
torch.manual_seed(0)
network = torch.nn.Sequential(
    torch.nn.Conv2d(3, 32, 3), torch.nn.ReLU(), torch.nn.MaxPool2d(2), torch.nn.Conv2d(32, 64, 3), torch.nn.ReLU(),
    torch.nn.Flatten(), torch.nn.Linear(64 * 13 * 13, 256), torch.nn.ReLU(), torch.nn.Linear(256, 10),
)  # fmt: skip
optimizer = torch.optim.Adam(network.parameters())
for _ in range(int(sys.argv[1])):
    images, labels = torch.randn(128, 3, 32, 32), torch.randint(10, (128,))
    loss = torch.nn.functional.cross_entropy(network(images), labels)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
print(float(loss))
