"""Facts about one tritonserver and its repository. No decisions are taken here."""
