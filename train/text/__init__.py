"""Reading captions: parts of speech, semantic roles and concepts, with nothing downloaded."""
