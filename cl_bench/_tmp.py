def sample_grid(images, path):
    from torchvision.utils import save_image

    path.parent.mkdir(parents=True, exist_ok=True)
    save_image(images.flatten(0, 1), path, nrow=images.shape[1])


def draw_results(results, folder):
    pass
