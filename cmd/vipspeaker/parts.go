package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// loopPart is the part that the others exist for: they end after it.
const loopPart = "control loop"

// endTime is how long the other parts may take to end after the control loop
// has. Nothing depends on them then, and what hangs, such as a check's program
// in the kernel, must not keep the process.
const endTime = 3 * time.Second

// maxParts is more than there are, so that the end of one never blocks.
const maxParts = 16

// parts are what runs at the same time, each by its name. They have one life.
type parts struct {
	life    context.Context //nolint:containedctx // it is the life of what is started, not of a call
	end     context.CancelFunc
	running map[string]bool
	ended   chan endOfPart
}

type endOfPart struct {
	name string
	err  error
}

func newParts(ctx context.Context) *parts {
	p := &parts{running: map[string]bool{}, ended: make(chan endOfPart, maxParts)}
	p.life, p.end = context.WithCancel(ctx)
	return p
}

// start runs a part until its life ends.
func (p *parts) start(name string, run func(context.Context) error) {
	p.running[name] = true
	go func() { p.ended <- endOfPart{name, run(p.life)} }()
}

// wait returns when all parts have ended. The end of the control loop, and an
// error of any part, ends the life of all; the first error is returned. It
// does not wait any longer when enough gives an error, and not for parts that
// have not ended 3 s after the control loop: the error names them.
func (p *parts) wait(enough <-chan error) error {
	defer p.end()
	var first error
	var late <-chan time.Time // nil until the control loop has ended
	for len(p.running) > 0 {
		select {
		case e := <-p.ended:
			delete(p.running, e.name)
			if e.err != nil {
				p.end()
				if first == nil {
					first = fmt.Errorf("%s: %w", e.name, e.err)
				}
			}
			if e.name == loopPart {
				p.end()
				late = time.After(endTime)
			}
		case err := <-enough:
			if err != nil {
				return err
			}
			enough = nil
		case <-late:
			names := strings.Join(slices.Sorted(maps.Keys(p.running)), ", ")
			return errors.Join(first, fmt.Errorf("not ended %v after the control loop: %s", endTime, names))
		}
	}
	return first
}
