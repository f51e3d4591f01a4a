"""The strategies of `event_engine.py` in backtrader and in two generations of nautilus_trader.

`python event_engine_peers.py PEER CASE FOLDER`, with the Python of the peer's own environment, reads FOLDER/CASE.npz
(stamps in nanoseconds; open, high, low, close, volume of shape (rows, symbols)), runs the case once, writes the fills
(row, column, side, shares, price) to FOLDER/fills.npy and prints the seconds that the run took. `event_engine.py` says
what they contain, and why the engines are configured as they are.

The rules remember what they wanted last, so that no engine need be asked for a position on each bar.
"""

import sys
from decimal import Decimal
from pathlib import Path
from time import perf_counter

import numpy as np

FAST, SLOW, LOOKBACK = 10, 20, 60
SHARES, CASH = 100, 1_000_000_000
PURGE_BARS = 60
"""Age at which nautilus_trader forgets closed positions and orders, and the time between two such purges."""


class EmaCross:
    """Long while the fast mean of the closes is above the slow one, from bar `SLOW` on; else flat."""

    def __init__(self):
        self.bars = 0
        self.fast = self.slow = 0.0
        self.long = False

    def update(self, close):
        """Whether to be long from this bar on; None: as before."""
        self.bars += 1
        if self.bars == 1:
            self.fast = self.slow = close
        self.fast += 2 / (FAST + 1) * (close - self.fast)
        self.slow += 2 / (SLOW + 1) * (close - self.slow)
        long = self.fast > self.slow
        if long == self.long or self.bars < SLOW:
            return None
        self.long = long
        return long


class Tsmom:
    """Long while the close is above that of `LOOKBACK` bars before; else flat."""

    def __init__(self):
        self.closes = []
        self.long = False

    def update(self, close):
        """Whether to be long from this bar on; None: as before."""
        self.closes.append(close)
        if len(self.closes) <= LOOKBACK:
            return None
        long = close > self.closes[-1 - LOOKBACK]
        if long == self.long:
            return None
        self.long = long
        return long


RULES = {"ema": EmaCross, "tsmom": Tsmom}
"""By the first word of a case's name."""


def columns(bars):
    """Open, high, low, close and volume of each symbol, as lists of floats."""
    names = ("open", "high", "low", "close", "volume")
    return [[bars[name][:, column].tolist() for name in names] for column in range(bars["close"].shape[1])]


def with_backtrader(bars, rule):
    """Seconds and fills; the bars' way from lists into its lines is a part of its run."""
    import backtrader

    days = (719_163 + bars["stamps"] / 86_400e9).tolist()  # ordinal days, as its dates are

    class Bars(backtrader.feed.DataBase):
        params = (("rows", ()),)

        def start(self):
            super().start()
            self.left = iter(self.p.rows)

        def _load(self):
            row = next(self.left, None)
            if row is None:
                return False
            lines = self.lines
            lines.datetime[0], lines.open[0], lines.high[0], lines.low[0], lines.close[0], lines.volume[0] = row
            lines.openinterest[0] = 0.0
            return True

    fills = []

    class Strategy(backtrader.Strategy):
        def start(self):
            self.rules = [(column, data, rule()) for column, data in enumerate(self.datas)]

        def next(self):
            for column, data, own in self.rules:
                long = own.update(data.close[0])
                if long is not None:
                    order = self.buy(data, size=SHARES) if long else self.sell(data, size=SHARES)
                    order.addinfo(row=len(self) - 1, column=column)

        def notify_order(self, order):
            if order.status == order.Completed:
                info, executed = order.info, order.executed
                side = 1 if order.isbuy() else -1
                fills.append((info.row, info.column, side, abs(executed.size), executed.price))
            elif order.status in (order.Margin, order.Rejected):
                raise SystemExit(f"backtrader refused the order of row {order.info.row}")

    cerebro = backtrader.Cerebro(stdstats=False)
    cerebro.addstrategy(Strategy)
    cerebro.broker.setcash(CASH)
    cerebro.broker.set_coc(True)
    for lists in columns(bars):
        cerebro.adddata(Bars(rows=list(zip(days, *lists, strict=True))))
    start = perf_counter()
    cerebro.run()
    return perf_counter() - start, fills


def purging(kind, minutes):
    """An execution engine's configuration of either generation, otherwise as delivered."""
    names = ("closed_orders_interval", "closed_orders_buffer", "closed_positions_interval", "closed_positions_buffer")
    names += ("account_events_interval", "account_events_lookback")
    return kind(**{f"purge_{name}_mins": minutes for name in names})


def with_nautilus(bars, rule):
    """Seconds and fills of the generation that is installed: the same names, some in other modules."""
    import nautilus_trader
    from nautilus_trader import model

    stamps = bars["stamps"].tolist()
    minutes = PURGE_BARS * (stamps[1] - stamps[0]) // 60_000_000_000
    free = {}
    if nautilus_trader.__version__.startswith("1."):
        from nautilus_trader.backtest.config import BacktestEngineConfig
        from nautilus_trader.backtest.engine import BacktestEngine
        from nautilus_trader.common.config import LoggingConfig
        from nautilus_trader.config import ExecEngineConfig
        from nautilus_trader.model import enums
        from nautilus_trader.model.instruments import Equity
        from nautilus_trader.trading.config import StrategyConfig
        from nautilus_trader.trading.strategy import Strategy

        settings = {"logging": LoggingConfig(bypass_logging=True), "exec_engine": purging(ExecEngineConfig, minutes)}
        lot = {"lot_size": model.Quantity.from_int(1)}
    else:
        from nautilus_trader.backtest import BacktestEngine, BacktestEngineConfig
        from nautilus_trader.common import LoggerConfig, LogLevel
        from nautilus_trader.execution import ExecutionEngineConfig, MakerTakerFeeModel
        from nautilus_trader.model import Equity
        from nautilus_trader.trading import Strategy, StrategyConfig

        enums, lot = model, {}
        settings = {
            "logging": LoggerConfig(stdout_level=LogLevel.OFF, bypass_logging=True),
            "exec_engine": purging(ExecutionEngineConfig, minutes),
        }
        free["fee_model"] = MakerTakerFeeModel(Decimal(0), Decimal(0))

    buy, sell = enums.OrderSide.BUY, enums.OrderSide.SELL
    quantity = model.Quantity.from_int(SHARES)
    fills = []

    class Rules(Strategy):
        def on_start(self):
            self.position = None
            self.subscribe_bars(self.bar_type)

        def on_bar(self, bar):
            long = self.rule.update(bar.close.as_double())
            if long is not None:
                order = self.order_factory.market(self.instrument_id, buy if long else sell, quantity)
                self.submit_order(order, None if long else self.position)

        def on_order_filled(self, event):
            self.position = event.position_id
            side = 1 if event.order_side == buy else -1
            fills.append((event.ts_event, self.column, side, event.last_qty.as_double(), event.last_px.as_double()))

    usd, venue = model.Currency.from_str("USD"), model.Venue("SIM")
    engine = BacktestEngine(BacktestEngineConfig(run_analysis=False, **settings))
    engine.add_venue(
        venue,
        enums.OmsType.HEDGING,
        enums.AccountType.CASH,
        [model.Money(CASH, usd)],
        base_currency=usd,
        **free,
    )
    price, whole, make = model.Price, model.Quantity, model.Bar
    for column, lists in enumerate(columns(bars)):
        symbol = model.Symbol(f"S{column}")
        one = model.InstrumentId(symbol, venue)
        engine.add_instrument(Equity(one, symbol, usd, 2, price.from_str("0.01"), ts_event=0, ts_init=0, **lot))
        kind = model.BarType.from_str(f"{one}-1-{'MINUTE' if minutes == PURGE_BARS else 'DAY'}-LAST-EXTERNAL")
        rows = zip(stamps, *lists, strict=True)
        made = [
            make(kind, price(o, 2), price(h, 2), price(low, 2), price(c, 2), whole(v, 0), ts, ts)
            for ts, o, h, low, c, v in rows
        ]
        engine.add_data(made, sort=False)
        strategy = Rules(StrategyConfig(order_id_tag=f"{column:03}", log_events=False, log_commands=False))
        strategy.bar_type, strategy.instrument_id, strategy.rule, strategy.column = kind, one, rule(), column
        engine.add_strategy(strategy)
    engine.sort_data()
    analyzer = getattr(engine.portfolio, "analyzer", None)
    if analyzer is not None:
        analyzer.record_trade = lambda *args, **kwargs: None
    start = perf_counter()
    engine.run()
    seconds = perf_counter() - start
    rows = {stamp: row for row, stamp in enumerate(stamps)}
    return seconds, [(rows[ts], *rest) for ts, *rest in fills]


if __name__ == "__main__":
    peer, case, folder = sys.argv[1], sys.argv[2], Path(sys.argv[3])
    engine = with_backtrader if peer == "backtrader" else with_nautilus
    seconds, fills = engine(np.load(folder / f"{case}.npz"), RULES[case.split("_")[0]])
    np.save(folder / "fills.npy", np.array(fills, dtype=float))
    print(seconds)
