"""What `make lab` tells the Jupyter server: a notebook that was only opened is not changed."""

from contextlib import suppress

from ipykernel.ipkernel import IPythonKernel
from jupyter_client.kernelspec import KernelSpecManager, NoSuchKernel
from jupyter_server.services.contents.largefilemanager import AsyncLargeFileManager

c = get_config()  # noqa: F821 - Jupyter defines it


class AsThisKernel(AsyncLargeFileManager):
    """Notebooks arrive with what JupyterLab would write into them when their kernel answers.

    Committed notebooks do not name the version of the Python that ran them. JupyterLab fills it
    in at once, and the page would then ask to be saved before the reader did anything.
    """

    async def get(self, path: str, *arguments, **options) -> dict:
        model = await super().get(path, *arguments, **options)
        if model["type"] == "notebook" and model["content"] is not None:
            as_this_kernel(model["content"]["metadata"])
        return model


def as_this_kernel(metadata: dict) -> None:
    spec = metadata.get("kernelspec", {})
    if spec.get("name") == "python3":
        metadata["language_info"] = dict(IPythonKernel.language_info)
        with suppress(NoSuchKernel):
            spec["display_name"] = KernelSpecManager().get_kernel_spec("python3").display_name


c.ServerApp.contents_manager_class = AsThisKernel
