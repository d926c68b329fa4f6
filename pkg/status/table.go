package status

import (
	"fmt"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// Style says how text is to look. The zero value gives plain ASCII, fit for
// pipes and files.
type Style struct {
	// Marks allows UTF-8 marks in front of good and bad cells.
	Marks bool
	// Colour allows ANSI colours.
	Colour bool
	// Columns is the width of the terminal: texts at the end of a line that do
	// not fit go on below. 0 is for a width that is not known.
	Columns int
}

// tone is the meaning of a cell, shown as mark and colour.
type tone int

const (
	plain tone = iota
	good
	bad
	weak // neither: not wanted, not known yet
	head
)

// cell is one field of a table.
type cell struct {
	text string
	tone tone
	mark bool
}

// text makes a plain cell.
func text(s string) cell { return cell{text: s} }

// yesNo makes a cell for a state that should be true.
func yesNo(ok bool) cell {
	if ok {
		return cell{"yes", good, true}
	}
	return cell{"no", bad, true}
}

// table aligns cells in columns. It does not use text/tabwriter because that
// counts the bytes of colour sequences as width.
type table struct {
	rows   [][]cell
	widths []int // of the columns; they only grow
	lines  int   // that a text at the end of a row may take; 0 for any number
}

func (t *table) add(cells ...cell) { t.rows = append(t.rows, cells) }

func (t *table) header(names ...string) {
	cells := make([]cell, len(names))
	for i, n := range names {
		cells[i] = cell{n, head, false}
	}
	t.add(cells...)
}

// write appends the table to b, columns two blanks apart.
func (t *table) write(b *strings.Builder, s Style) {
	for _, row := range t.rows {
		for i, c := range row {
			if i == len(t.widths) {
				t.widths = append(t.widths, 0)
			}
			t.widths[i] = max(t.widths[i], utf8.RuneCountInString(s.plain(c)))
		}
	}
	for _, row := range t.rows {
		last := len(row) - 1
		for last > 0 && row[last].text == "" {
			last--
		}
		at, gap := 0, 0
		for i, c := range row[:last+1] {
			shown := s.plain(c)
			placed := t.place(s, shown, c.tone, i, at)
			if !strings.HasPrefix(placed, "\n") {
				b.WriteString(strings.Repeat(" ", gap))
			}
			b.WriteString(placed)
			gap = t.widths[i] - utf8.RuneCountInString(shown) + 2
			at += t.widths[i] + 2
		}
		b.WriteByte('\n')
	}
}

const (
	// narrow is how few columns are too few for a text to go on in.
	narrow = 24
	// below is how far a text is indented for which too few are left.
	below = 4
)

// place is a cell that begins at the column at. A text in the last column that
// does not fit into the terminal's width goes on below.
func (t *table) place(s Style, shown string, tone tone, i, at int) string {
	wide := s.Columns > 0 && at+utf8.RuneCountInString(shown) > s.Columns
	if !wide || tone == head || t.lines == 0 || i < len(t.widths)-1 || s.Columns < narrow+below {
		return s.paint(shown, tone)
	}
	first := ""
	if s.Columns-at < narrow {
		at = below
		first = "\n" + strings.Repeat(" ", at)
	}
	lines := wrap(shown, s.Columns-at, t.lines, s.ellipsis())
	for i := range lines {
		lines[i] = s.paint(lines[i], tone)
	}
	return first + strings.Join(lines, "\n"+strings.Repeat(" ", at))
}

// wrap breaks a text between words into lines of that many columns. A word that
// has more is alone on its line and cut. With lines above 0 there are no more
// than that, and what was left out is marked.
func wrap(text string, columns, lines int, mark string) []string {
	var out []string
	for word := range strings.FieldsSeq(text) {
		word = cut(word, columns, mark)
		if last := len(out) - 1; last >= 0 && utf8.RuneCountInString(out[last])+1+utf8.RuneCountInString(word) <= columns {
			out[last] += " " + word
			continue
		}
		if lines > 0 && len(out) == lines {
			out[lines-1] = cut(out[lines-1]+" "+word, columns, mark)
			break
		}
		out = append(out, word)
	}
	return out
}

// cut makes a text fit into that many columns, with a mark if it did not.
func cut(text string, columns int, mark string) string {
	runes := []rune(text)
	if len(runes) <= columns {
		return text
	}
	return strings.TrimRight(string(runes[:columns-utf8.RuneCountInString(mark)]), " ") + mark
}

// ellipsis marks what was left out.
func (s Style) ellipsis() string {
	if s.Marks {
		return "…"
	}
	return "..."
}

// plain returns the cell's text with its mark and without colours.
func (s Style) plain(c cell) string {
	shown := clean(c.text)
	if !s.Marks || !c.mark {
		return shown
	}
	switch c.tone {
	case good:
		return "✓ " + shown
	case bad:
		return "✗ " + shown
	default:
		return "· " + shown
	}
}

// paint adds the colour of a tone.
func (s Style) paint(shown string, t tone) string {
	if !s.Colour || shown == "" {
		return shown
	}
	switch t {
	case good:
		return "\x1b[32m" + shown + "\x1b[0m"
	case bad:
		return "\x1b[31m" + shown + "\x1b[0m"
	case weak:
		return "\x1b[33m" + shown + "\x1b[0m"
	case head:
		return "\x1b[1m" + shown + "\x1b[0m"
	default:
		return shown
	}
}

// clean makes a text safe to print: error texts may come from a router
// (RFC 9003) or from a check's target, and must not drive the terminal. Lines,
// as of several joined errors, become one.
func clean(s string) string {
	s = strings.ReplaceAll(strings.TrimSpace(s), "\n", "; ")
	if utf8.ValidString(s) && strings.IndexFunc(s, notPrintable) < 0 {
		return s
	}
	q := strconv.QuoteToGraphic(s)
	return strings.ReplaceAll(q[1:len(q)-1], `\"`, `"`)
}

func notPrintable(r rune) bool { return !unicode.IsPrint(r) }

// age says how long ago t was, in at most two units; "-" for a zero time.
func age(now, t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return span(now.Sub(t))
}

// span writes a duration in at most two units.
func span(d time.Duration) string {
	d = max(d, 0)
	const day = 24 * time.Hour
	switch {
	case d < time.Minute:
		return fmt.Sprintf("%ds", d/time.Second)
	case d < time.Hour:
		return fmt.Sprintf("%dm%02ds", d/time.Minute, d%time.Minute/time.Second)
	case d < day:
		return fmt.Sprintf("%dh%02dm", d/time.Hour, d%time.Hour/time.Minute)
	default:
		return fmt.Sprintf("%dd%02dh", d/day, d%day/time.Hour)
	}
}

// lasting says since how long something is, " for 1m05s"; empty for a zero time.
func lasting(now, t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return " for " + age(now, t)
}
