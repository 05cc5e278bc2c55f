// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package access

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"golang.org/x/sync/singleflight"
	authenticationv1 "k8s.io/api/authentication/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
)

// selfRetry is the least time between two questions who this manager is.
const selfRetry = time.Second

// Self knows as whom the API server knows this manager. It asks when that is
// first needed, and everybody may, so no role has to say so.
type Self struct {
	client kubernetes.Interface
	asking singleflight.Group

	mu    sync.Mutex
	name  string // empty until it is known
	err   error
	asked time.Time
}

// NewSelf returns one that asks nothing yet.
func NewSelf(client kubernetes.Interface) *Self { return &Self{client: client} }

// Name returns the user name, as system:serviceaccount:NAMESPACE:NAME. It cannot
// change while the process lives. An error means that the API server could not be
// asked; it is asked again a second later.
func (s *Self) Name(ctx context.Context) (string, error) {
	s.mu.Lock()
	name, err, age := s.name, s.err, time.Since(s.asked)
	s.mu.Unlock()
	if name != "" || err != nil && age < selfRetry {
		return name, err
	}
	answers := s.asking.DoChan("", func() (any, error) {
		// One who leaves must not take the answer from the others.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), reviewTimeout)
		defer cancel()
		found, err := s.ask(ctx)
		s.mu.Lock()
		defer s.mu.Unlock()
		s.name, s.err, s.asked = found, err, time.Now()
		return found, err
	})
	select {
	case answer := <-answers:
		name, _ = answer.Val.(string) // the function above returns nothing else
		return name, answer.Err
	case <-ctx.Done():
		return "", ctx.Err()
	}
}

func (s *Self) ask(ctx context.Context) (string, error) {
	review, err := s.client.AuthenticationV1().SelfSubjectReviews().Create(ctx, &authenticationv1.SelfSubjectReview{}, metav1.CreateOptions{})
	switch {
	case err != nil:
		return "", fmt.Errorf("asking the API server who this manager is: %w", err)
	case review.Status.UserInfo.Username == "":
		return "", errors.New("asking the API server who this manager is: it did not say")
	}
	return review.Status.UserInfo.Username, nil
}
