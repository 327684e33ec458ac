"""values://<folder>: options in the user's current folder, which may hold values only."""

from __future__ import annotations

from hydra._internal.core_plugins.file_config_source import FileConfigSource
from hydra.core.object_type import ObjectType
from hydra.plugins.config_source import ConfigResult


class ValuesSource(FileConfigSource):
    """Options of our groups. Hydra's own groups, the schemas and the primary configuration cannot be replaced."""

    @staticmethod
    def scheme() -> str:
        return "values"

    def load_config(self, config_path: str) -> ConfigResult:
        from ablate.cli.folders import refuse_code

        result = super().load_config(config_path)
        path = f"{self.path}/{self._normalize_file_name(config_path)}"
        refuse_code(path, result.header.get("package"), result.config)
        return result

    def is_group(self, config_path: str) -> bool:
        return self._ours(config_path) and super().is_group(config_path)

    def is_config(self, config_path: str) -> bool:
        return "/" in config_path and self._ours(config_path) and super().is_config(config_path)

    def list(self, config_path: str, results_filter: ObjectType | None) -> list[str]:
        return super().list(config_path, results_filter) if self.is_group(config_path) else []

    def _ours(self, config_path: str) -> bool:
        from ablate.cli.folders import groups

        first, *others = config_path.split("/")
        return (first in groups() or config_path == "") and not {"", ".."} & set(others)
