package health

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"syscall"
	"time"
	"unicode"
)

const (
	// lineBytes bounds what of a program's or server's text gets into a reason.
	lineBytes = 200
	// reasonBytes bounds the whole of a reason.
	reasonBytes = 500
)

// failure is the error of a run that began at start, for an operator: who was
// asked, and the innermost cause in few words.
func failure(ctx context.Context, start time.Time, target string, err error) error {
	errno, isErrno := errors.AsType[syscall.Errno](err)
	timeout, isTimeout := errors.AsType[net.Error](err)
	switch deadline, ok := ctx.Deadline(); {
	// The clock of a connection may run out a moment before the context's.
	case ok && (ctx.Err() != nil || !isErrno && isTimeout && timeout.Timeout()):
		limit, ok := ctx.Value(limitKey{}).(time.Duration)
		if !ok {
			limit = deadline.Sub(start).Round(time.Millisecond)
		}
		return fmt.Errorf("%s: timeout after %s", target, limit)
	case isErrno:
		return fmt.Errorf("%s: %w", target, errno)
	}
	if op, ok := errors.AsType[*net.OpError](err); ok {
		err = op.Err
	}
	if op, ok := errors.AsType[*os.PathError](err); ok {
		err = op.Err
	}
	return fmt.Errorf("%s: %w", target, err)
}

// firstLine is the first line of a text that is not blank, without control
// characters and at most limit bytes long.
func firstLine(text string, limit int) string {
	for line := range strings.Lines(strings.ToValidUTF8(text, "?")) {
		line = strings.TrimSpace(strings.Map(func(r rune) rune {
			if unicode.IsControl(r) {
				return ' '
			}
			return r
		}, line))
		if line != "" {
			if len(line) > limit {
				line = strings.ToValidUTF8(line[:limit], "")
			}
			return line
		}
	}
	return ""
}
