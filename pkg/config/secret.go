package config

import (
	"fmt"
	"log/slog"
)

// Secret is a value that never appears in logs, JSON or formatted output.
// string(s) is the value.
type Secret string

// String returns a placeholder.
func (Secret) String() string { return "(secret)" }

// Format writes a placeholder for every verb: without it fmt shows the value
// where a verb does not fit the type.
func (Secret) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte("(secret)")) }

// MarshalText returns a placeholder, for JSON and other encodings.
func (Secret) MarshalText() ([]byte, error) { return []byte("(secret)"), nil }

// LogValue returns a placeholder.
func (Secret) LogValue() slog.Value { return slog.StringValue("(secret)") }
