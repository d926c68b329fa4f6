package config

import (
	"fmt"
	"strconv"
	"strings"
)

// Error is one mistake in a configuration.
type Error struct {
	// Path is the place, such as interfaces[0].peers[1].asn; empty for the file
	// as a whole.
	Path string
	// Line is the line in the file, 0 if the format does not tell.
	Line int
	// Value is what the file has there, quoted if it is text; empty if nothing
	// is there or if it must not be shown.
	Value string
	// Problem says what is wrong and what would be right.
	Problem string
}

// Error returns the path, the value and the problem.
func (e Error) Error() string {
	parts := make([]string, 0, 3)
	for _, s := range []string{e.Path, e.Value, e.Problem} {
		if s != "" {
			parts = append(parts, s)
		}
	}
	return strings.Join(parts, ": ")
}

// Errors is everything that is wrong with a configuration, in the order of the
// file. It is what Load and Parse return.
type Errors struct {
	// Name is the name of the file.
	Name string
	// List has at least one entry.
	List []Error
}

// maxPrinted is how many mistakes are printed. A file of something else can have tens of
// thousands, which nobody reads and which would fill the log; List has all.
const maxPrinted = 100

// Error returns one line for each of the first hundred mistakes and one for the number
// of the others, without a final newline.
func (e *Errors) Error() string {
	list := e.List
	if len(list) > maxPrinted+1 { // a line about one more would be no shorter
		list = list[:maxPrinted]
	}
	lines := make([]string, 0, len(list)+1)
	for _, one := range list {
		place := e.Name
		if one.Line > 0 {
			place += ":" + strconv.Itoa(one.Line)
		}
		lines = append(lines, fmt.Sprintf("%s: %s", place, one.Error()))
	}
	if more := len(e.List) - len(list); more > 0 {
		lines = append(lines, fmt.Sprintf("%s: and %d more mistakes", e.Name, more))
	}
	return strings.Join(lines, "\n")
}
