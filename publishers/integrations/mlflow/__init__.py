"""MLflow's own calls publish to the bus: ``MLFLOW_TRACKING_URI=trainbus:``.

MLflow finds the parts by the entry points ``mlflow.tracking_store``,
``mlflow.model_registry_store`` and ``mlflow.artifact_repository``; nothing else imports them, so
that a training node without MLflow needs none.
"""
