"""Train a dual encoder: data, batches, loss, loop. The only other user of torch is serving."""
