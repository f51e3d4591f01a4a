"""The portfolio of `portfolio.py` in bt and in backtrader; each runs it with the Python of its own environment.

`python portfolio_others.py bt|backtrader FOLDER` reads FOLDER/input.npz, simulates, prints the seconds of that alone
(with the data in the library's form) and writes its fills (row, column, shares, price) and final equity. Both get the
orders that ours makes: target weight x equity at the close / price - position, sells first.
"""

import sys
from pathlib import Path
from time import perf_counter

import numpy as np
import pandas as pd


def orders(weights, value, prices, positions):
    """(column, shares), cheapest order value first."""
    shares = weights * value / prices - positions
    worth = shares * prices
    return [(column, shares[column]) for column in np.argsort(worth, kind="stable") if shares[column] != 0]


def with_bt(close, rows, weights, cash, fee):
    import bt

    names = [f"S{number:04d}" for number in range(close.shape[1])]
    days = pd.bdate_range("2010-01-01", periods=len(close))
    planned = dict(zip(days[rows], weights, strict=True))
    fills = []

    class Orders(bt.Algo):
        def __call__(self, target):
            wanted = planned.get(target.now)
            if wanted is not None:
                row = days.get_loc(target.now)
                children = [target.children[name] for name in names]
                held = np.array([child.position for child in children])
                for column, shares in orders(wanted, target.value, close[row], held):
                    children[column].transact(shares, update=False)
                    fills.append((row, column, shares, close[row, column]))
                target.root.stale = True
            return True

    strategy = bt.Strategy("s", [Orders()], children=[bt.Security(name) for name in names])
    backtest = bt.Backtest(
        strategy,
        pd.DataFrame(close, days, names),
        initial_capital=cash,
        commissions=lambda shares, price: abs(shares) * price * fee,
        integer_positions=False,
        progress_bar=False,
    )
    start = perf_counter()
    backtest.run()
    return perf_counter() - start, fills, float(backtest.strategy.values.iloc[-1])


def with_backtrader(close, rows, weights, cash, fee):
    import backtrader

    days = pd.bdate_range("2010-01-01", periods=len(close))
    planned = dict(zip(rows.tolist(), weights, strict=True))
    fills = []

    class Plan(backtrader.Strategy):
        def next(self):
            row = len(self) - 1
            wanted = planned.get(row)
            if wanted is not None:
                held = np.array([self.getposition(data).size for data in self.datas])
                for column, shares in orders(wanted, self.broker.getvalue(), close[row], held):
                    trade = self.buy if shares > 0 else self.sell
                    trade(self.datas[column], size=abs(shares)).column = column

        def notify_order(self, order):
            if order.status == order.Completed:
                day = backtrader.num2date(order.executed.dt).date()
                fills.append((days.get_loc(pd.Timestamp(day)), order.column, order.executed.size, order.executed.price))
            elif order.status in (order.Margin, order.Rejected):
                raise SystemExit(f"backtrader refused an order of {order.size} shares")

    cerebro = backtrader.Cerebro(stdstats=False)
    cerebro.addstrategy(Plan)
    cerebro.broker.setcash(cash)
    cerebro.broker.setcommission(commission=fee)
    cerebro.broker.set_coc(True)
    for column in range(close.shape[1]):
        price = close[:, column]
        bars = pd.DataFrame({"open": price, "high": price, "low": price, "close": price, "volume": 0.0}, days)
        cerebro.adddata(backtrader.feeds.PandasData(dataname=bars))
    start = perf_counter()
    cerebro.run()
    return perf_counter() - start, fills, cerebro.broker.getvalue()


if __name__ == "__main__":
    library, folder = sys.argv[1], Path(sys.argv[2])
    given = np.load(folder / "input.npz")
    simulated = {"bt": with_bt, "backtrader": with_backtrader}[library]
    arrays = (given[name] for name in ("close", "rows", "weights"))
    seconds, fills, final = simulated(*arrays, float(given["cash"]), float(given["fee"]))
    np.savez(folder / f"{library}.npz", fills=np.array(fills), final=final)
    print(seconds)
