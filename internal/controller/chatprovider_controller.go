// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"context"
	"crypto/x509"
	"fmt"
	"sync"
	"time"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/clock"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"chatrun.dev/operator/api/v1alpha1"
	"chatrun.dev/operator/internal/members"
	"chatrun.dev/operator/internal/metrics"
	"chatrun.dev/operator/internal/provider"
)

// A missing Secret is looked for again after minSecretDelay, then at doubling
// intervals up to maxSecretDelay. Secrets are not watched: that takes the right
// to list all of them.
const (
	minSecretDelay = 5 * time.Second
	maxSecretDelay = time.Minute
)

// ChatProviderReconciler keeps the conditions of ChatProviders. It never calls
// the endpoint: a probe would cost money.
type ChatProviderReconciler struct {
	client client.Client
	live   client.Reader
	clock  clock.PassiveClock

	members *members.Members
	// asked are the providers that a run of ours found to be other than they say.
	asked   *asked
	metrics *metrics.Metrics
}

// asked is a set of names.
type asked struct{ names sync.Map }

func (a *asked) add(key types.NamespacedName) { a.names.Store(key, nil) }

func (a *asked) take(key types.NamespacedName) bool {
	_, was := a.names.LoadAndDelete(key)
	return was
}

// ours says whether we are to look after a provider. One replica does, and whoever
// has a run that cannot use it. Writes are locked, so two do no harm.
func (r *ChatProviderReconciler) ours(p *v1alpha1.ChatProvider) bool {
	wanted := r.asked.take(client.ObjectKeyFromObject(p))
	return r.members.Held() && (wanted || r.members.HolderOf(p.Namespace, string(p.UID)) == r.members.Me())
}

// Reconcile brings one provider's conditions up to date.
func (r *ChatProviderReconciler) Reconcile(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
	p := &v1alpha1.ChatProvider{}
	switch err := r.client.Get(ctx, req.NamespacedName, p); {
	case apierrors.IsNotFound(err):
		r.metrics.Forget(metrics.Provider(req.Namespace, req.Name))
		return ctrl.Result{}, nil
	case err != nil:
		return ctrl.Result{}, err
	}
	r.metrics.Admit(metrics.Provider(req.Namespace, req.Name))
	if !r.ours(p) {
		return ctrl.Result{}, nil
	}
	_, problem, err := readKey(ctx, r.live, p)
	if err != nil {
		return ctrl.Result{}, err
	}
	if problem == nil && !validCABundle(p.Spec.CABundle) {
		problem = &providerProblem{reason: v1alpha1.ReasonInvalid, message: badCABundleMessage}
	}
	now := r.clock.Now()
	base := p.DeepCopy()
	p.Status = providerStatus(p, problem, now)
	if !equality.Semantic.DeepEqual(base.Status, p.Status) {
		err := r.client.Status().Patch(ctx, p, locked(base), statusOwner)
		if apierrors.IsConflict(err) {
			return ctrl.Result{RequeueAfter: firstConflictDelay}, nil
		}
		if err != nil {
			return ctrl.Result{}, client.IgnoreNotFound(err)
		}
	}
	return ctrl.Result{RequeueAfter: lookAgain(p, now)}, nil
}

// providerProblem is why a provider is not ready.
type providerProblem struct{ reason, message string }

// providerStatus computes the status: a pure function.
func providerStatus(p *v1alpha1.ChatProvider, problem *providerProblem, now time.Time) v1alpha1.ChatProviderStatus {
	s := *p.Status.DeepCopy()
	s.ObservedGeneration = new(p.Generation)
	ready := metav1.Condition{
		Type: v1alpha1.ConditionReady, Status: metav1.ConditionTrue, Reason: v1alpha1.ReasonAccepted, Message: acceptedMessage,
		ObservedGeneration: p.Generation, LastTransitionTime: metav1.NewTime(now),
	}
	if p.Spec.Credentials == nil {
		ready.Message = acceptedNoKey
	}
	if problem != nil {
		ready.Status, ready.Reason, ready.Message = metav1.ConditionFalse, problem.reason, problem.message
	}
	meta.SetStatusCondition(&s.Conditions, ready)
	return s
}

// lookAgain says when a missing Secret is looked for again: after as long as it
// has been missing, which doubles, and which a restart does not forget.
func lookAgain(p *v1alpha1.ChatProvider, now time.Time) time.Duration {
	ready := providerReady(p)
	if ready == nil || (ready.Reason != v1alpha1.ReasonSecretNotFound && ready.Reason != v1alpha1.ReasonKeyNotFound) {
		return 0
	}
	return min(max(now.Sub(ready.LastTransitionTime.Time), minSecretDelay), maxSecretDelay)
}

// readKey reads a provider's key from its Secret, past any cache. It returns
// the zero Key for a provider that names none, and a problem if the key is not
// to be had.
func readKey(ctx context.Context, live client.Reader, p *v1alpha1.ChatProvider) (provider.Key, *providerProblem, error) {
	if p.Spec.Credentials == nil {
		return provider.Key{}, nil, nil
	}
	ref := p.Spec.Credentials.SecretKeyRef
	secret := &corev1.Secret{}
	// client-go writes bodies to the context's log, at a level that nobody should
	// use and somebody will.
	err := live.Get(logr.NewContext(ctx, logr.Discard()), types.NamespacedName{Namespace: p.Namespace, Name: ref.Name}, secret)
	switch {
	case apierrors.IsNotFound(err):
		return provider.Key{}, &providerProblem{v1alpha1.ReasonSecretNotFound, secretMissingMessage(ref.Name)}, nil
	case apierrors.IsForbidden(err):
		return provider.Key{}, &providerProblem{v1alpha1.ReasonSecretNotFound, secretForbiddenMessage(ref.Name)}, nil
	case err != nil:
		return provider.Key{}, nil, fmt.Errorf("reading Secret %s: %w", ref.Name, err)
	}
	key := provider.NewKey(string(secret.Data[ref.Key]))
	if key.IsZero() {
		return provider.Key{}, &providerProblem{v1alpha1.ReasonKeyNotFound, keyMissingMessage(ref.Name, ref.Key)}, nil
	}
	return key, nil, nil
}

func validCABundle(pem string) bool {
	return pem == "" || x509.NewCertPool().AppendCertsFromPEM([]byte(pem))
}

func providerReady(p *v1alpha1.ChatProvider) *metav1.Condition {
	return meta.FindStatusCondition(p.Status.Conditions, v1alpha1.ConditionReady)
}

func isTrue(c *metav1.Condition) bool { return c != nil && c.Status == metav1.ConditionTrue }
