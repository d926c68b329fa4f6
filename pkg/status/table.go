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
		for i, c := range row[:last+1] {
			shown := s.plain(c)
			b.WriteString(s.paint(shown, c.tone))
			if i < last {
				b.WriteString(strings.Repeat(" ", t.widths[i]-utf8.RuneCountInString(shown)+2))
			}
		}
		b.WriteByte('\n')
	}
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
