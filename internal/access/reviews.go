// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package access

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/go-logr/logr"
	"golang.org/x/sync/singleflight"
	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/cache"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/client-go/kubernetes"
)

const (
	// allowTTL is how long a good answer of the API server is kept. Extension API
	// servers keep it as long: a right that is taken away is soon gone, and a
	// thousand readers of one user who come back at once cost one review.
	allowTTL = 10 * time.Second
	// denyTTL is the same for a bad answer: short, as who was just given the
	// right tries again at once.
	denyTTL = 2 * time.Second
	// reviewTimeout bounds one review. Nobody waits longer before the first byte,
	// and the API server has answered or is overloaded by then.
	reviewTimeout = 10 * time.Second
	// maxReviews bounds the reviews at one time: whoever sends bad tokens by the
	// thousand must not use up the share of the API server that the manager needs
	// for its runs. At some 3 ms each it is good for 5,000 new readers a second.
	maxReviews = 16
	// maxWaiting bounds those who wait for one: each holds its token meanwhile.
	maxWaiting = 256
	// maxDecisions bounds the answers that are kept, of some 200 bytes each.
	maxDecisions = 8192
	// quiet is how long a failure that goes on is not logged again.
	quiet = time.Minute
)

var (
	// errReview says that a review could not be made.
	errReview = errors.New("the API server could not be asked")
	// errCrowd says that too many wait for one.
	errCrowd = errors.New("too many reviews wait")
)

// +kubebuilder:rbac:groups=authentication.k8s.io,resources=tokenreviews,verbs=create
// +kubebuilder:rbac:groups=authorization.k8s.io,resources=subjectaccessreviews,verbs=create

// reviews asks the API server who somebody is and what they may. What stands
// around it is k8s.io/apiserver's; the two requests are ours, since its own
// bring the evaluation of CEL with them, which nearly doubles the binary.
type reviews struct {
	client kubernetes.Interface
	log    logr.Logger
	failed failure
	// audience is whom a token must be for; empty is the API server itself.
	audience string

	// who and what bound the two kinds of reviews, each by itself: a flood of bad
	// tokens must not keep those waiting who are known.
	who, what places
	decisions *cache.LRUExpireCache
	underway  singleflight.Group
}

func newReviews(client kubernetes.Interface, log logr.Logger) *reviews {
	return &reviews{
		client: client, log: log, who: newPlaces(), what: newPlaces(), decisions: cache.NewLRUExpireCache(maxDecisions),
	}
}

// unlogged keeps bodies, which hold tokens and keys, out of the log: client-go
// writes them to that of the context, at a level that somebody will use.
func unlogged(ctx context.Context) context.Context { return logr.NewContext(ctx, logr.Discard()) }

// places are those of the reviews that are made at one time, and of those who
// wait for one.
type places struct{ busy, all chan struct{} }

func newPlaces() places {
	return places{busy: make(chan struct{}, maxReviews), all: make(chan struct{}, maxReviews+maxWaiting)}
}

// take waits for a place, unless too many do. Each that is taken is to be given
// back. What waits here outlives its request, so their number must have a bound.
func (p places) take(ctx context.Context) error {
	select {
	case p.all <- struct{}{}:
	default:
		return errCrowd
	}
	select {
	case p.busy <- struct{}{}:
		return nil
	case <-ctx.Done():
		<-p.all
		return ctx.Err()
	}
}

func (p places) giveBack() {
	<-p.busy
	<-p.all
}

// AuthenticateToken implements authenticator.Token. A token that is not good is
// no error, so that the cache around it keeps that answer as well.
func (v *reviews) AuthenticateToken(ctx context.Context, token string) (*authenticator.Response, bool, error) {
	ctx, cancel := context.WithTimeout(ctx, reviewTimeout)
	defer cancel()
	if err := v.who.take(ctx); err != nil {
		v.failed.log(v.log, err, "too many readers at once to ask who they are", "")
		return nil, false, fmt.Errorf("%w: %w", errReview, err)
	}
	defer v.who.giveBack()
	asked := authenticationv1.TokenReviewSpec{Token: token}
	if v.audience != "" {
		asked.Audiences = []string{v.audience}
	}
	review, err := v.client.AuthenticationV1().TokenReviews().Create(unlogged(ctx),
		&authenticationv1.TokenReview{Spec: asked}, metav1.CreateOptions{})
	if err != nil {
		v.failed.log(v.log, err, "asking who a reader is", "create tokenreviews.authentication.k8s.io")
		return nil, false, fmt.Errorf("%w: %w", errReview, err)
	}
	// An API server that knows no audiences, or an authenticator behind it, says
	// nothing of them: its word is not for us then.
	if !review.Status.Authenticated || v.audience != "" && !slices.Contains(review.Status.Audiences, v.audience) {
		return nil, false, nil
	}
	who := review.Status.User
	extra := make(map[string][]string, len(who.Extra))
	for key, values := range who.Extra {
		extra[key] = values
	}
	return &authenticator.Response{User: &user.DefaultInfo{Name: who.Username, UID: who.UID, Groups: who.Groups, Extra: extra}}, true, nil
}

// decision is the API server's answer, with its reason.
type decision struct {
	allowed bool
	reason  string
}

// decide asks whether somebody has a right, or knows the answer still. Those
// who ask the same at one time are answered by one review.
func (v *reviews) decide(ctx context.Context, spec authorizationv1.SubjectAccessReviewSpec) (decision, error) {
	raw, err := json.Marshal(spec)
	if err != nil {
		return decision{}, fmt.Errorf("%w: %w", errReview, err)
	}
	// Its sum, as a user may have very many groups.
	key := sha256.Sum256(raw)
	if known, ok := v.decisions.Get(key); ok {
		d, _ := known.(decision) // nothing else is ever added
		return d, nil
	}
	answers := v.underway.DoChan(string(key[:]), func() (any, error) {
		// Another one may have asked, and got its answer, since the look above.
		if known, ok := v.decisions.Get(key); ok {
			return known, nil
		}
		// One who leaves must not take the answer from the others.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), reviewTimeout)
		defer cancel()
		d, err := v.ask(ctx, spec)
		if err == nil {
			ttl := denyTTL
			if d.allowed {
				ttl = allowTTL
			}
			v.decisions.Add(key, d, ttl)
		}
		return d, err
	})
	select {
	case answer := <-answers:
		d, _ := answer.Val.(decision) // the function above returns nothing else
		return d, answer.Err
	case <-ctx.Done():
		return decision{}, ctx.Err()
	}
}

func (v *reviews) ask(ctx context.Context, spec authorizationv1.SubjectAccessReviewSpec) (decision, error) {
	if err := v.what.take(ctx); err != nil {
		v.failed.log(v.log, err, "too many readers at once to ask what they may", "")
		return decision{}, fmt.Errorf("%w: %w", errReview, err)
	}
	defer v.what.giveBack()
	review, err := v.client.AuthorizationV1().SubjectAccessReviews().Create(unlogged(ctx),
		&authorizationv1.SubjectAccessReview{Spec: spec}, metav1.CreateOptions{})
	if err != nil {
		v.failed.log(v.log, err, "asking what a reader may", "create subjectaccessreviews.authorization.k8s.io")
		return decision{}, fmt.Errorf("%w: %w", errReview, err)
	}
	return decision{allowed: review.Status.Allowed && !review.Status.Denied, reason: review.Status.Reason}, nil
}

// failure logs what fails once, and not for each request that meets it.
type failure struct {
	mu   sync.Mutex
	last time.Time
}

// log says what failed, and by which right it is allowed.
func (f *failure) log(logger logr.Logger, err error, message, right string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.last.IsZero() && time.Since(f.last) < quiet {
		return
	}
	f.last = time.Now()
	if apierrors.IsForbidden(err) {
		logger.Error(err, message+": the manager lacks a right", "right", right)
		return
	}
	logger.Error(err, message)
}
