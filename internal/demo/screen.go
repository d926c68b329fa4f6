package demo

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"golang.org/x/term"
)

// screen tells the story: plain lines, with emphasis only on a terminal.
type screen struct {
	out   io.Writer
	in    *bufio.Reader
	start time.Time
	// emphasis is set when the reader is a person at a terminal.
	emphasis bool
	// pause waits for Enter after each chapter.
	pause    bool
	chapters int
	// blank is set after an empty line, so that two never follow each other.
	blank bool
	// failed is why the output could not be written, after which end is called.
	failed error
	end    func()
}

func newScreen(out io.Writer, in io.Reader, pause bool) *screen {
	return &screen{
		out:      out,
		in:       bufio.NewReader(in),
		start:    time.Now(),
		emphasis: isTerminal(out) && os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb",
		pause:    pause,
		end:      func() {},
	}
}

func isTerminal(out io.Writer) bool {
	file, ok := out.(*os.File)
	return ok && term.IsTerminal(int(file.Fd()))
}

// chapter begins a numbered part; with pause it first waits for Enter.
func (s *screen) chapter(ctx context.Context, title string) {
	if s.pause && s.chapters > 0 {
		s.gap()
		s.print("(press Enter to go on) ")
		s.waitForEnter(ctx)
	}
	s.chapters++
	s.gap()
	s.print(s.bold(fmt.Sprintf("%d. %s", s.chapters, title)) + "\n")
	s.gap()
}

// waitForEnter returns on a line, on the end of the input, or with ctx.
func (s *screen) waitForEnter(ctx context.Context) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, _ = s.in.ReadString('\n') // the end of the input means go on as well
	}()
	select {
	case <-done:
	case <-ctx.Done():
	}
}

// event prints one line of what happened, with the seconds since the start.
func (s *screen) event(format string, args ...any) {
	s.print(fmt.Sprintf("  %5.1f s  ", time.Since(s.start).Seconds()) + fmt.Sprintf(format, args...) + "\n")
}

// measured prints one line with a figure that was measured and held.
func (s *screen) measured(format string, args ...any) {
	s.event("%s", s.bold(fmt.Sprintf(format, args...)))
}

// block prints text as it is, indented.
func (s *screen) block(text string) {
	s.gap()
	for line := range strings.Lines(strings.TrimRight(text, "\n") + "\n") {
		s.print(strings.TrimRight("    "+line, " \n") + "\n")
	}
	s.gap()
}

// gap prints an empty line unless there is one.
func (s *screen) gap() {
	if !s.blank {
		s.print("\n")
		s.blank = true
	}
}

func (s *screen) bold(text string) string {
	if !s.emphasis {
		return text
	}
	return "\x1b[1m" + text + "\x1b[0m"
}

// print ends the demo when nobody can see it any more.
func (s *screen) print(text string) {
	s.blank = false
	if s.failed != nil {
		return
	}
	if _, s.failed = io.WriteString(s.out, text); s.failed != nil {
		s.end()
	}
}
