package main

import "testing"

func TestCutLines(t *testing.T) {
	tests := map[string]struct {
		text    string
		columns int
		want    string
	}{
		"short":             {"abc\nd\n", 3, "abc\nd\n"},
		"long":              {"abcd\nabcdef\n\nx\n", 3, "abc\nabc\n\nx\n"},
		"marks":             {"✓ yes\n", 4, "✓ ye\n"},
		"colour is no text": {"\x1b[32m✓ yes\x1b[0m\n", 5, "\x1b[32m✓ yes\x1b[0m\n"},
		"cut in a colour":   {"\x1b[32myes\x1b[0m no\n", 2, "\x1b[32mye\x1b[0m\n"},
		"cut after one":     {"\x1b[32myes\x1b[0m no\n", 4, "\x1b[32myes\x1b[0m \n"},
		"without an end":    {"abcd", 4, "abcd"},
		"nothing":           {"", 4, ""},
	}
	for name, tt := range tests {
		if got := cutLines(tt.text, tt.columns); got != tt.want {
			t.Errorf("%s: %q, want %q", name, got, tt.want)
		}
	}
}
