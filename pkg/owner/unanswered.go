package owner

import (
	"context"
	"errors"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/status"
)

// Unanswered tells whether an error of Move is one of etcd, which could not be asked or
// did not do what it was asked for; any other says why the VIP cannot be moved as things
// are. The order may have been carried out all the same.
func Unanswered(err error) bool {
	if errors.Is(err, errNotConnected) || errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) {
		return true
	}
	if _, ok := errors.AsType[rpctypes.EtcdError](err); ok {
		return true
	}
	_, ok := status.FromError(err)
	return ok && err != nil
}
