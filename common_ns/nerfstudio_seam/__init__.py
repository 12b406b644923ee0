"""Everything that knows nerfstudio's insides: compatibility, trainer, pipeline, datamanager, viewer."""
