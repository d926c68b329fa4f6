package status

import (
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"
)

// Store holds the picture of the last pass. Its one writer is the control loop;
// any number of readers may load. The zero value is not usable, see NewStore.
type Store struct {
	last         atomic.Pointer[Status]
	passDuration prometheus.Histogram
}

// NewStore returns an empty store.
func NewStore() *Store {
	return &Store{passDuration: prometheus.NewHistogram(prometheus.HistogramOpts{
		Name: "vipspeaker_pass_duration_seconds",
		Help: "How long passes of the control loop took, in seconds.",
		// A pass with nothing to do takes under a millisecond; one that runs
		// over 10 s ends the process.
		Buckets: []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10},
	})}
}

// Load returns the picture of the last pass, nil before the first one ended.
// What it returns must not be changed.
func (s *Store) Load() *Status { return s.last.Load() }

// Publish stores the picture of a pass that ended. The caller must not change
// it afterwards.
func (s *Store) Publish(st *Status) {
	s.passDuration.Observe(st.Passes.Duration.Seconds())
	s.last.Store(st)
}
