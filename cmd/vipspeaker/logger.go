package main

import (
	"fmt"
	"io"
	"log/slog"
)

// newLogger returns a logger in the form of log.format, text or json, whose
// level follows level.
func newLogger(w io.Writer, format string, level *slog.LevelVar) *slog.Logger {
	o := &slog.HandlerOptions{Level: level}
	if format == "json" {
		return slog.New(slog.NewJSONHandler(w, o))
	}
	return slog.New(slog.NewTextHandler(w, o))
}

// setLevel sets the level to log.level: debug, info, warn or error.
func setLevel(level *slog.LevelVar, name string) error {
	if err := level.UnmarshalText([]byte(name)); err != nil {
		return fmt.Errorf("log.level %s: %w", name, err)
	}
	return nil
}
