package config

import (
	"slices"
	"strings"
	"testing"
)

// TestManyMistakes: a file of something else does not flood whoever reads the answer.
func TestManyMistakes(t *testing.T) {
	for _, c := range []struct {
		mistakes, lines int
		last            string
	}{
		{1, 1, "f:1: x: wrong"},
		{101, 101, "f:1: x: wrong"},
		{102, 101, "f: and 2 more mistakes"},
		{60000, 101, "f: and 59900 more mistakes"},
	} {
		e := &Errors{Name: "f", List: slices.Repeat([]Error{{Line: 1, Path: "x", Problem: "wrong"}}, c.mistakes)}
		lines := strings.Split(e.Error(), "\n")
		if len(lines) != c.lines || lines[len(lines)-1] != c.last {
			t.Errorf("%d mistakes: %d lines, the last %q", c.mistakes, len(lines), lines[len(lines)-1])
		}
	}
}
