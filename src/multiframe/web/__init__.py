"""DICOMweb over a catalog: the only room that knows HTTP."""
