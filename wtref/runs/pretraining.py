"""Pretraining with random noise, before the first image.  (Cheon, Lee and Paik, 2024.)"""

from wtref.randomness import PRETRAINING, generator


def add_noise_steps(training, steps, batch_size, group, seed):
    """Have a Training begin with so many steps on random images, normal like standardised pixels, and random labels.

    They take the peak learning rate, and the velocities that they leave are set to zero.  All processes of the group draw
    the same batches and take their shards of them.
    """
    before_training, feed = training.before_training, training.feed

    def before_training_with_noise():
        before_training()
        rng, shard = generator(seed, PRETRAINING), group.shard(batch_size)
        training.sgd.lr = training.schedule.lr
        for step in range(steps):
            images = training.device.array(rng.standard_normal((batch_size, *feed.shape))[shard])
            labels = training.device.raw(rng.integers(feed.classes, size=batch_size)[shard])
            training.train_step(training.network, training.rule, training.sgd, training.loss, images, labels, step)
        for velocity in training.sgd.velocity.values():
            velocity[...] = 0

    training.before_training = before_training_with_noise
