package main

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

// TestParts: how the process ends, whatever a part does.
func TestParts(t *testing.T) {
	untilEnd := func(ctx context.Context) error {
		<-ctx.Done()
		return nil
	}
	after := func(d time.Duration, err error) func(context.Context) error {
		return func(context.Context) error {
			<-time.After(d)
			return err
		}
	}
	slow := func(d time.Duration) func(context.Context) error {
		return func(ctx context.Context) error {
			<-ctx.Done()
			<-time.After(d)
			return nil
		}
	}
	type run = func(context.Context) error
	tests := map[string]struct {
		loop, checks, sessions run
		enough                 error // after 10 s, if any
		want                   string
		took                   time.Duration
	}{
		"clean":                 {after(time.Second, nil), untilEnd, untilEnd, nil, "", time.Second},
		"slow":                  {after(time.Second, nil), untilEnd, slow(2 * time.Second), nil, "", 3 * time.Second},
		"a check hangs":         {after(time.Second, nil), slow(time.Hour), untilEnd, nil, "not ended 3s after the control loop: checks", 4 * time.Second},
		"two hang":              {after(0, nil), slow(time.Hour), slow(time.Hour), nil, "not ended 3s after the control loop: checks, sessions", 3 * time.Second},
		"a part fails":          {slow(time.Second), after(time.Second, errors.New("no")), untilEnd, nil, "checks: no", 2 * time.Second},
		"the loop fails":        {after(time.Second, errors.New("no")), untilEnd, untilEnd, nil, "control loop: no", time.Second},
		"both":                  {after(0, errors.New("no")), slow(time.Hour), untilEnd, nil, "control loop: no\nnot ended 3s after the control loop: checks", 3 * time.Second},
		"the loop takes long":   {after(8*time.Second, nil), untilEnd, untilEnd, nil, "", 8 * time.Second},
		"it is enough":          {after(time.Hour, nil), untilEnd, untilEnd, errSecondSignal, errSecondSignal.Error(), 10 * time.Second},
		"it is enough, no hang": {after(11*time.Second, nil), untilEnd, untilEnd, nil, "", 11 * time.Second},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				begin := time.Now()
				p := newParts(t.Context())
				p.start(loopPart, tt.loop)
				p.start("checks", tt.checks)
				p.start("sessions", tt.sessions)
				enough := make(chan error, 1)
				if tt.enough != nil {
					time.AfterFunc(10*time.Second, func() { enough <- tt.enough })
				} else if tt.took > 10*time.Second {
					enough <- nil
				}
				got := ""
				if err := p.wait(enough); err != nil {
					got = err.Error()
				}
				took := time.Since(begin)
				<-time.After(2 * time.Hour) // whatever hangs ends too
				if got != tt.want || took != tt.took {
					t.Errorf("%q after %v, want %q after %v", got, took, tt.want, tt.took)
				}
			})
		})
	}
}
