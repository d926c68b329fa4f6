package health

import (
	"context"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/status"
)

// heldGRPC is a grpc check that keeps its connection.
type heldGRPC struct {
	holder[*grpcLine]
	*grpcCheck
}

// Check implements Checker. It asks on the connection that is held. If that has
// ended it asks on another, which is held as long as the server tells of its health,
// good or bad.
func (h *heldGRPC) Check(ctx context.Context) error {
	if line, ok := h.held(); ok {
		start := time.Now()
		answer, err := line.ask(ctx)
		if err == nil {
			return h.verdict(answer)
		}
		lost := line.gone.Load() && ctx.Err() == nil
		h.drop(line)
		if !lost {
			return failure(ctx, start, h.target, err)
		}
	}
	line, answer, err := h.open(ctx)
	if err != nil {
		return err
	}
	h.keep(line)
	return h.verdict(answer)
}

// follow implements holdable. The client's state is another than Ready as soon as
// the connection has ended or the server has announced its end (GOAWAY).
func (l *grpcLine) follow(ctx context.Context, again func()) {
	ctx, cancel := context.WithCancel(ctx)
	var news sync.WaitGroup
	defer news.Wait()
	defer cancel()
	news.Go(func() { l.watch(ctx, again) })
	// It is Connecting when the first answer was quicker than the word of it.
	for s := l.client.GetState(); s == connectivity.Ready || s == connectivity.Connecting; s = l.client.GetState() {
		if !l.client.WaitForStateChange(ctx, s) {
			return
		}
	}
}

// watch calls again for what the server says of its health unasked. A stream that
// ends is followed by another, but where the server has none.
func (l *grpcLine) watch(ctx context.Context, again func()) {
	var pace holdPace
	tell := func() {
		if wait := pace.next(time.Now()); wait > 0 {
			select {
			case <-ctx.Done():
			case <-time.After(wait):
			}
		}
		if ctx.Err() == nil {
			again()
		}
	}
	known := true // what the stream says first was said to the run before
	for ctx.Err() == nil {
		err := l.stream(ctx, known, tell)
		if status.Code(err) == codes.Unimplemented || l.gone.Load() {
			return
		}
		known = false
		tell()
	}
}

// stream is one Health/Watch.
func (l *grpcLine) stream(ctx context.Context, known bool, tell func()) error {
	ctx, cancel := context.WithCancel(ctx) // its end is that of the stream
	defer cancel()
	stream, err := l.health.Watch(ctx, l.request())
	if err != nil {
		return err
	}
	for {
		news, err := stream.Recv()
		if err != nil {
			return err
		}
		if !known || news.GetStatus() != l.said {
			tell()
		}
		known = false
	}
}
