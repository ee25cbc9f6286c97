"""Text -> tokens: where texts come from, and the stage that cuts them into tokens once."""
