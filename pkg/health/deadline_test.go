package health

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

// A run's context behaves as one of context.WithDeadline, whoever asks first.
func TestDeadline(t *testing.T) {
	type key struct{}
	for _, tc := range []struct {
		name   string
		waited bool                                       // somebody called Done at the start
		then   func(d *deadline, stop context.CancelFunc) // what happens
		want   error
	}{
		{"nothing", false, func(*deadline, context.CancelFunc) {}, nil},
		{"nothing, waited", true, func(*deadline, context.CancelFunc) {}, nil},
		{"time is up", false, func(*deadline, context.CancelFunc) { time.Sleep(time.Second) }, context.DeadlineExceeded},
		{"time is up, waited", true, func(*deadline, context.CancelFunc) { time.Sleep(time.Second) }, context.DeadlineExceeded},
		{"parent ends", false, func(_ *deadline, stop context.CancelFunc) { stop() }, context.Canceled},
		{"parent ends, waited", true, func(_ *deadline, stop context.CancelFunc) { stop() }, context.Canceled},
		{"run is over", false, func(d *deadline, _ context.CancelFunc) { d.end() }, context.Canceled},
		{"run is over, waited", true, func(d *deadline, _ context.CancelFunc) { d.end() }, context.Canceled},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				parent, stop := context.WithCancel(context.WithValue(t.Context(), key{}, "v"))
				defer stop()
				d := &deadline{parent: parent, at: time.Now().Add(time.Second)}
				defer d.end()
				heard := false
				if tc.waited {
					defer context.AfterFunc(d, func() { heard = true })()
				}
				tc.then(d, stop)
				synctest.Wait()
				if got := d.Err(); !errors.Is(got, tc.want) || (got == nil) != (tc.want == nil) {
					t.Errorf("Err = %v, want %v", got, tc.want)
				}
				select {
				case <-d.Done():
					if tc.want == nil {
						t.Error("Done is closed")
					}
				default:
					if tc.want != nil {
						t.Error("Done is open")
					}
				}
				if got := d.Err(); (got == nil) != (tc.want == nil) {
					t.Errorf("Err after Done = %v, want %v", got, tc.want)
				}
				synctest.Wait()
				if heard != (tc.waited && tc.want != nil) {
					t.Errorf("heard of the end = %t", heard)
				}
				if at, ok := d.Deadline(); !ok || !at.Equal(d.at) || d.Value(key{}) != "v" {
					t.Errorf("deadline %s, %t and value %v", at, ok, d.Value(key{}))
				}
			})
		})
	}
}

// What derives from it ends with it, without a goroutine of its own.
func TestDeadlineDerived(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &deadline{parent: t.Context(), at: time.Now().Add(time.Second)}
		child, stop := context.WithTimeout(d, time.Hour)
		defer stop()
		begin := time.Now()
		<-child.Done()
		if !errors.Is(child.Err(), context.DeadlineExceeded) || time.Since(begin) != time.Second {
			t.Errorf("child ends with %v after %s, want the deadline after 1s", child.Err(), time.Since(begin))
		}
		d.end()
	})
}
