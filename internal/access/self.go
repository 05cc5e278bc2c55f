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
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apiserver/pkg/authentication/serviceaccount"
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
	who   authenticationv1.UserInfo // without a name until it is known
	err   error
	asked time.Time
}

// NewSelf returns one that asks nothing yet.
func NewSelf(client kubernetes.Interface) *Self { return &Self{client: client} }

// Name returns the user name, as system:serviceaccount:NAMESPACE:NAME. It cannot
// change while the process lives. An error means that the API server could not be
// asked; it is asked again a second later.
func (s *Self) Name(ctx context.Context) (string, error) {
	who, err := s.user(ctx)
	return who.Username, err
}

// Owners returns what an object in a namespace is to be owned by that this manager
// makes for itself: its ServiceAccount, so that the object goes when that is
// uninstalled. It is none if the account is not of that namespace, or not known: an
// object without an owner is as good for its use.
func (s *Self) Owners(ctx context.Context, namespace string) []metav1.OwnerReference {
	who, err := s.user(ctx)
	if err != nil || who.UID == "" {
		return nil
	}
	in, name, err := serviceaccount.SplitUsername(who.Username)
	if err != nil || in != namespace {
		return nil
	}
	return []metav1.OwnerReference{{APIVersion: "v1", Kind: "ServiceAccount", Name: name, UID: types.UID(who.UID)}}
}

func (s *Self) user(ctx context.Context) (authenticationv1.UserInfo, error) {
	s.mu.Lock()
	who, err, age := s.who, s.err, time.Since(s.asked)
	s.mu.Unlock()
	if who.Username != "" || err != nil && age < selfRetry {
		return who, err
	}
	answers := s.asking.DoChan("", func() (any, error) {
		// One who leaves must not take the answer from the others.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), reviewTimeout)
		defer cancel()
		found, err := s.ask(ctx)
		s.mu.Lock()
		defer s.mu.Unlock()
		s.who, s.err, s.asked = found, err, time.Now()
		return found, err
	})
	select {
	case answer := <-answers:
		who, _ = answer.Val.(authenticationv1.UserInfo) // the function above returns nothing else
		return who, answer.Err
	case <-ctx.Done():
		return authenticationv1.UserInfo{}, ctx.Err()
	}
}

func (s *Self) ask(ctx context.Context) (authenticationv1.UserInfo, error) {
	review, err := s.client.AuthenticationV1().SelfSubjectReviews().Create(ctx, &authenticationv1.SelfSubjectReview{}, metav1.CreateOptions{})
	switch {
	case err != nil:
		return authenticationv1.UserInfo{}, fmt.Errorf("asking the API server who this manager is: %w", err)
	case review.Status.UserInfo.Username == "":
		return authenticationv1.UserInfo{}, errors.New("asking the API server who this manager is: it did not say")
	}
	return review.Status.UserInfo, nil
}
