package main

import (
	"strings"
	"unicode/utf8"
)

// resetColour ends the colour of a line that was cut inside of it.
const resetColour = "\x1b[0m"

// cutLines cuts every line of text to that many columns, so that no line of a
// screen that is drawn in place wraps. Colours (SGR sequences) take no column.
// What the text says is one column for each rune: addresses, names and marks.
func cutLines(text string, columns int) string {
	var b strings.Builder
	for line := range strings.Lines(text) {
		b.WriteString(cutLine(line, columns))
	}
	return b.String()
}

func cutLine(line string, columns int) string {
	taken, coloured := 0, false
	for i := 0; i < len(line); {
		if strings.HasPrefix(line[i:], "\x1b[") {
			if end := strings.IndexByte(line[i:], 'm'); end >= 0 {
				coloured = line[i:i+end+1] != resetColour
				i += end + 1
				continue
			}
		}
		if line[i] == '\n' {
			break
		}
		if taken == columns {
			if coloured {
				return line[:i] + resetColour + "\n"
			}
			return line[:i] + "\n"
		}
		_, size := utf8.DecodeRuneInString(line[i:])
		i += size
		taken++
	}
	return line
}
